import { graphql } from 'relay-runtime';

graphql`
  fragment Task_list on Query
  @argumentDefinitions(first: { type: "Int", defaultValue: 2 }, after: { type: "String" })
  @refetchable(queryName: "TaskListPageQuery") {
    tasks(first: $first, after: $after) @connection(key: "Task_tasks") {
      edges { cursor node { id } }
    }
  }
`;

graphql`
  query TaskListQuery {
    ...Task_list
  }
`;

graphql`
  mutation TaskStartMutation($input: StartDemoTaskInput!) {
    startDemoTask(input: $input) { task { id state } }
  }
`;

graphql`
  subscription TaskUpdatedSubscription($id: ID!) {
    taskUpdated(id: $id) { id state progress version }
  }
`;
