// Event streams: graphql-sse in its mode of distinct connections, and urql and Apollo Client over the same endpoint.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApolloClient, ApolloLink, InMemoryCache, Observable, gql } from '@apollo/client';
import { Client, fetchExchange } from '@urql/core';
import { print } from 'graphql';
import { ownServer } from './server.mjs';
import {
  APPS, CANCEL, CREATE, ENDPOINT, FOLLOW, Frames, SIGN_UP, START, TASK, WATCH,
  ask, bearer, checkFrames, endless, eventually, hello, only, person, signUp, slow, socketFor, streamsFor,
} from './service.mjs';

const codes = (frame) => frame.errors.map((error) => error.extensions.code);

/** Starts a task that takes a while; its id. */
async function started(token, input = slow, endpoint = ENDPOINT) {
  const { startDemoTask } = await ask(START, { input }, { token, endpoint });
  return startDemoTask.task.id;
}

test('graphql-sse asks queries and mutations, each answered by one frame', async (t) => {
  const anonymous = streamsFor(t);
  const apps = await only(anonymous, APPS);
  assert.equal(apps.data.apps.nodes[0].slug, 'hello');
  const { data } = await only(anonymous, SIGN_UP, { input: person() });
  const client = streamsFor(t, data.signUp.accessToken);
  const { data: { startDemoTask: { task } } } = await only(client, START, { input: slow });
  assert.equal(task.state, 'QUEUED');
  assert.equal((await only(client, TASK, { id: task.id })).data.task.id, task.id);
});

test('graphql-sse watches a task to its end', async (t) => {
  const token = await signUp();
  const frames = new Frames();
  streamsFor(t, token).subscribe({ query: WATCH, variables: { id: await started(token) } }, frames);
  checkFrames((await frames.end()).map((frame) => frame.data.taskUpdated));
});

test('an event stream is made of the frames graphql-sse writes down', async (t) => {
  const token = await signUp();
  const answer = await fetch(ENDPOINT, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...bearer(token) },
    body: JSON.stringify({ query: WATCH, variables: { id: await started(token) } }),
  });
  assert.equal(answer.status, 200);
  assert.match(answer.headers.get('content-type'), /^text\/event-stream(;|$)/);
  const events = (await answer.text()).split('\n\n').filter((event) => event && !event.startsWith(':'));
  for (const event of events.slice(0, -1)) assert.match(event, /^event: next\ndata: \{.*\}$/);
  assert.match(events.at(-1), /^event: complete(\ndata: ?)?$/);
  checkFrames(events.slice(0, -1).map((event) => JSON.parse(event.split('data: ')[1]).data.taskUpdated));
});

test('graphql-sse hears the code of every refusal, and that nothing more comes', async (t) => {
  const token = await signUp();
  const id = await started(token);
  const anonymous = streamsFor(t);
  assert.deepEqual(codes(await only(anonymous, WATCH, { id })), ['UNAUTHENTICATED']);
  assert.deepEqual(codes(await only(anonymous, START, { input: slow })), ['UNAUTHENTICATED']);
  const stranger = streamsFor(t, await signUp());
  assert.deepEqual(codes(await only(stranger, WATCH, { id })), ['NOT_FOUND']);
  assert.deepEqual(codes(await only(streamsFor(t, token), START, { input: { steps: 0 } })), ['BAD_USER_INPUT']);
  assert.deepEqual(codes(await only(anonymous, 'subscription { nothing }')), ['BAD_USER_INPUT']);
});

test('what graphql-sse has left is not sent to it and not run any more', async (t) => {
  const server = await ownServer(t);
  const { endpoint } = server;
  const token = await signUp(endpoint);
  const id = await started(token, endless, endpoint);
  const client = streamsFor(t, token, { endpoint });
  const [left, kept] = [new Frames(), new Frames()];
  const leave = client.subscribe({ query: WATCH, variables: { id } }, left);
  await left.until('the task at work', (frame) => frame.data.taskUpdated.state === 'RUNNING');
  assert.equal(await server.meter('shared_runs'), 1);
  leave();
  await eventually('the run has ended', async () => await server.meter('shared_runs') === 0);
  const known = left.all.length;

  // The task goes on, and whoever still watches hears of it.
  const socket = socketFor(t, token, { endpoint });
  socket.subscribe({ query: WATCH, variables: { id } }, kept);
  await ask(CANCEL, { input: { id } }, { token, endpoint });
  await kept.until('the end of the task', (frame) => frame.data.taskUpdated.state === 'CANCELLED');
  await kept.end();
  assert.equal(left.all.length, known);
  await eventually('nothing runs', async () => await server.meter('shared_runs') === 0);
});

test('one of two that watch the same can leave, and the other goes on', async (t) => {
  const token = await signUp();
  const { createContainer: { container: { id } } } = await ask(CREATE, { input: hello }, { token });
  const client = streamsFor(t, token);
  const [first, second] = [new Frames(), new Frames()];
  const leave = client.subscribe({ query: FOLLOW, variables: { id } }, first);
  const leaveToo = client.subscribe({ query: FOLLOW, variables: { id } }, second);
  await first.until('a frame', () => true);
  leave();
  await first.end();
  await second.until('the container runs', (frame) => frame.data.containerUpdated.state === 'RUNNING');
  leaveToo();
  await second.end();
});

test('urql watches over an event stream', async (t) => {
  const token = await signUp();
  const client = new Client({
    url: ENDPOINT,
    preferGetMethod: false,
    fetchSubscriptions: true,
    fetchOptions: () => ({ headers: bearer(token) }),
    exchanges: [fetchExchange],
  });
  const frames = new Frames();
  const { unsubscribe } = client.subscription(WATCH, { id: await started(token) }).subscribe(({ data, error }) => {
    if (error) frames.error(error);
    else frames.next(data.taskUpdated);
  });
  t.after(unsubscribe);
  await frames.until('the end of the task', (frame) => frame.state === 'SUCCEEDED');
  checkFrames(frames.all);
});

test('Apollo Client watches over an event stream', async (t) => {
  const token = await signUp();
  const streams = streamsFor(t, token);
  const link = new ApolloLink(({ query, variables }) => new Observable((sink) => streams.subscribe({ query: print(query), variables }, {
    next: (frame) => sink.next(frame),
    error: (error) => sink.error(error),
    complete: () => sink.complete(),
  })));
  const client = new ApolloClient({ link, cache: new InMemoryCache() });
  t.after(() => client.stop());
  const frames = new Frames();
  client.subscribe({ query: gql(WATCH), variables: { id: await started(token) } }).subscribe(frames);
  checkFrames((await frames.end()).map((frame) => frame.data.taskUpdated));
});
