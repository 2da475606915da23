import { graphql } from 'relay-runtime';

graphql`
  fragment Container_container on Container @refetchable(queryName: "ContainerRefetchQuery") {
    id
    state
    version
    app { slug }
    ports { inside published }
  }
`;

graphql`
  query ContainerListQuery {
    containers(first: 10) @connection(key: "Container_containers") {
      edges { node { id state ...Container_container } }
    }
  }
`;

graphql`
  subscription ContainerListSubscription {
    containers(first: 10) {
      edges { cursor node { id state ...Container_container } }
      pageInfo { endCursor hasNextPage }
    }
  }
`;

graphql`
  mutation ContainerCreateMutation($input: CreateContainerInput!, $connections: [ID!]!) {
    createContainer(input: $input) {
      container @prependNode(connections: $connections, edgeTypeName: "ContainerEdge") { id state ...Container_container }
      task { id state }
    }
  }
`;

graphql`
  mutation ContainerDeleteMutation($input: DeleteContainerInput!) {
    # No state: the answer can come after what a subscription tells of its effects, and the store would take it for newer.
    deleteContainer(input: $input) { container { id } }
  }
`;

graphql`
  subscription ContainerUpdatedSubscription($id: ID!) {
    containerUpdated(id: $id) { id state version ports { inside published } }
  }
`;

graphql`
  subscription ContainerNodeSubscription($id: ID!) {
    node(id: $id) { ...Container_container @alias(as: "container") }
  }
`;
