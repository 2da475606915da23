// The libraries web clients use: Apollo Client, urql and graphql-ws, against the real server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { OperationTypeNode } from 'graphql';
import { Client, fetchExchange, subscriptionExchange } from '@urql/core';
import {
  APPS, ENDPOINT, Frames, SIGN_UP, START, TASK, WATCH, checkFrames, only, person, slow, socketFor, within,
} from './service.mjs';

test('Apollo Client', async (t) => {
  let token;
  const auth = new ApolloLink((operation, forward) => {
    if (token) operation.setContext({ headers: { authorization: `Bearer ${token}` } });
    return forward(operation);
  });
  const http = auth.concat(new HttpLink({ uri: ENDPOINT }));
  const anonymous = new ApolloClient({ link: http, cache: new InMemoryCache() });
  const code = async (work) => {
    const error = await work.then(() => assert.fail('an error is expected'), (error) => error);
    assert.ok(CombinedGraphQLErrors.is(error), String(error));
    return error.errors[0].extensions.code;
  };
  assert.equal(await code(anonymous.mutate({ mutation: gql(START), variables: { input: slow } })), 'UNAUTHENTICATED');
  const { data } = await anonymous.mutate({ mutation: gql(SIGN_UP), variables: { input: person() } });
  token = data.signUp.accessToken;

  const socket = socketFor(t, token);
  const isSubscription = ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION;
  const client = new ApolloClient({ link: ApolloLink.split(isSubscription, new GraphQLWsLink(socket), http), cache: new InMemoryCache() });
  t.after(() => client.stop());
  const apps = await client.query({ query: gql(APPS) });
  assert.equal(apps.data.apps.nodes[0].slug, 'hello');
  assert.equal(await code(client.query({ query: gql(TASK), variables: { id: 'task_0' } })), 'NOT_FOUND');
  assert.equal(await code(client.mutate({ mutation: gql(START), variables: { input: { steps: 0 } } })), 'BAD_USER_INPUT');
  const started = await client.mutate({ mutation: gql(START), variables: { input: slow } });
  const frames = [];
  await within(new Promise((resolve, reject) => {
    client.subscribe({ query: gql(WATCH), variables: { id: started.data.startDemoTask.task.id } }).subscribe({
      next: ({ data, error }) => (error ? reject(error) : frames.push(data.taskUpdated)),
      error: reject,
      complete: resolve,
    });
  }));
  checkFrames(frames);
});

test('urql', async (t) => {
  let token;
  let socket;
  const client = new Client({
    url: ENDPOINT,
    preferGetMethod: false,
    fetchOptions: () => ({ headers: token ? { authorization: `Bearer ${token}` } : {} }),
    exchanges: [
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: (request) => ({
          subscribe: (sink) => ({ unsubscribe: socket.subscribe({ ...request, query: request.query ?? '' }, sink) }),
        }),
      }),
    ],
  });
  const code = ({ error }) => error.graphQLErrors[0].extensions.code;
  assert.equal(code(await client.mutation(START, { input: slow })), 'UNAUTHENTICATED');
  token = (await client.mutation(SIGN_UP, { input: person() })).data.signUp.accessToken;
  socket = socketFor(t, token);
  assert.equal((await client.query(APPS, {})).data.apps.nodes[0].slug, 'hello');
  assert.equal(code(await client.query(TASK, { id: 'task_0' })), 'NOT_FOUND');
  assert.equal(code(await client.mutation(START, { input: { stepMillis: -1 } })), 'BAD_USER_INPUT');
  const started = await client.mutation(START, { input: slow });
  const frames = [];
  await within(new Promise((resolve, reject) => {
    client.subscription(WATCH, { id: started.data.startDemoTask.task.id }).subscribe(({ data, error }) => {
      if (error) return reject(error);
      frames.push(data.taskUpdated);
      if (data.taskUpdated.state === 'SUCCEEDED') resolve();
    });
  }));
  checkFrames(frames);
});

test('graphql-ws alone, queries and mutations too', async (t) => {
  const anonymous = socketFor(t);
  assert.equal((await only(anonymous, APPS)).data.apps.nodes[0].slug, 'hello');
  const { data } = await only(anonymous, SIGN_UP, { input: person() });
  const refused = await only(anonymous, START, { input: slow });
  assert.equal(refused.errors[0].extensions.code, 'UNAUTHENTICATED');
  const socket = socketFor(t, data.signUp.accessToken);
  const started = await only(socket, START, { input: slow });
  const { id } = started.data.startDemoTask.task;
  const frames = [];
  await within((async () => {
    for await (const frame of socket.iterate({ query: WATCH, variables: { id } })) frames.push(frame.data.taskUpdated);
  })());
  checkFrames(frames);
  assert.deepEqual((await only(socket, TASK, { id })).data.task, frames.at(-1));
});

test('graphql-ws hears the errors of what is no operation of the schema', async (t) => {
  const socket = socketFor(t);
  for (const query of ['{ nothing }', 'mutation { nothing }', 'subscription { nothing }']) {
    const frames = new Frames();
    socket.subscribe({ query }, frames);
    const [error] = await frames.failure();
    assert.equal(error.extensions.code, 'BAD_USER_INPUT', query);
  }
});
