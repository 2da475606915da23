// Lists that are watched by a client with a cache: they are there at once, they follow, and the cache fits the server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { relayStylePagination } from '@apollo/client/utilities';
import { OperationTypeNode } from 'graphql';
import { Client, fetchExchange, subscriptionExchange } from '@urql/core';
import {
  CANCEL, ENDPOINT, Frames, START,
  ask, bearer, endless, hello, signUp, socketFor, within,
} from './service.mjs';

const ROWS = 'containers(first: 10) { nodes { id state version } totalCount }';
const CONTAINERS = gql(`query Containers { ${ROWS} }`);
const LIVE_CONTAINERS = gql(`subscription LiveContainers { ${ROWS} }`);
// They ask for no state: the answer to a mutation can come after what the subscription tells of its effects, and a cache
// would take it for the newer one.
const CREATE_ONLY = gql('mutation Create($input: CreateContainerInput!) { createContainer(input: $input) { container { id } } }');
const DELETE_ONLY = gql('mutation Delete($input: DeleteContainerInput!) { deleteContainer(input: $input) { container { id } } }');
const PAGE = gql('query Tasks($after: String) { tasks(first: 2, after: $after) { edges { cursor node { id } } pageInfo { endCursor hasNextPage } } }');

function apolloOf(t, token, cache = new InMemoryCache()) {
  const http = new HttpLink({ uri: ENDPOINT, headers: bearer(token) });
  const isSubscription = ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION;
  const link = ApolloLink.split(isSubscription, new GraphQLWsLink(socketFor(t, token)), http);
  const client = new ApolloClient({ link, cache });
  t.after(() => client.stop());
  return client;
}

const states = (list) => list.nodes.map(({ id, state }) => `${id} ${state}`);

test('Apollo Client shows a list that follows what it changes itself, and its cache fits the server', async (t) => {
  const token = await signUp();
  const client = apolloOf(t, token);
  const change = async (mutation, input) => (await client.mutate({ mutation, variables: { input } })).data;
  const create = async () => (await change(CREATE_ONLY, hello)).createContainer.container.id;
  const older = await create();

  const query = client.watchQuery({ query: CONTAINERS });
  const seen = new Frames();
  const shown = query.subscribe({ next: ({ data }) => data && seen.next(data.containers), error: seen.error });
  t.after(() => shown.unsubscribe());
  t.after(query.subscribeToMore({ document: LIVE_CONTAINERS, updateQuery: (_, { subscriptionData }) => subscriptionData.data }));
  const shows = (...rows) => (list) => list.totalCount === rows.length && states(list).join() === rows.join();
  await seen.until('the older runs', shows(`${older} RUNNING`));
  const newer = await create();
  await seen.until('both run, the newer first', shows(`${newer} RUNNING`, `${older} RUNNING`));
  await change(DELETE_ONLY, { id: older });
  await seen.until('the older is gone', shows(`${newer} RUNNING`, `${older} DELETED`));

  const cached = client.readQuery({ query: CONTAINERS });
  const entity = client.readFragment({ id: `Container:${older}`, fragment: gql('fragment Row on Container { id state version }') });
  assert.deepEqual(entity, cached.containers.nodes[1], 'the rows of the list are those of the cache');
  const fresh = await apolloOf(t, token).query({ query: CONTAINERS });
  assert.deepEqual(cached, fresh.data);
  const kept = Object.keys(client.cache.extract()).filter((key) => key.startsWith('Container:'));
  assert.deepEqual(kept.sort(), [older, newer].map((id) => `Container:${id}`).sort());
});

test('Apollo Client joins pages by their cursors', async (t) => {
  const token = await signUp();
  const ids = [];
  for (let each = 0; each < 5; each += 1) {
    const { startDemoTask: { task } } = await ask(START, { input: { steps: 1, stepMillis: 0 } }, { token });
    ids.unshift(task.id);
  }
  const cache = new InMemoryCache({ typePolicies: { Query: { fields: { tasks: relayStylePagination() } } } });
  const query = apolloOf(t, token, cache).watchQuery({ query: PAGE });
  let { tasks } = (await within(query.refetch())).data;
  for (const size of [4, 5]) {
    assert.ok(tasks.pageInfo.hasNextPage);
    await within(query.fetchMore({ variables: { after: tasks.pageInfo.endCursor } }));
    ({ tasks } = query.getCurrentResult().data);
    assert.deepEqual(tasks.edges.map((edge) => edge.node.id), ids.slice(0, size));
  }
  assert.equal(tasks.pageInfo.hasNextPage, false);
});

test('urql watches the tasks at work: one comes in when it starts, and leaves when it has ended', async (t) => {
  const token = await signUp();
  const socket = socketFor(t, token);
  const client = new Client({
    url: ENDPOINT,
    preferGetMethod: false,
    exchanges: [
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: (request) => ({ subscribe: (sink) => ({ unsubscribe: socket.subscribe(request, sink) }) }),
      }),
    ],
  });
  const text = 'subscription AtWork { tasks(first: 5, filter: {state: {in: [RUNNING, WAITING]}}) { nodes { id state } totalCount } }';
  const frames = new Frames();
  const { unsubscribe } = client.subscription(text, {}).subscribe(({ data, error }) => {
    if (error) frames.error(error);
    else frames.next(data.tasks);
  });
  t.after(unsubscribe);
  assert.deepEqual((await frames.until('the list', () => true)).nodes, []);
  const { startDemoTask: { task: { id } } } = await ask(START, { input: endless }, { token });
  await frames.until('the task in the list', (list) => list.totalCount === 1 && states(list).join() === `${id} RUNNING`);
  const before = frames.all.length;
  await ask(CANCEL, { input: { id } }, { token });
  await frames.until('an empty list again', (list) => (
    frames.all.indexOf(list) >= before && list.totalCount === 0 && list.nodes.length === 0
  ));
});
