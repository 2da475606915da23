// Connections that break under a client: it comes back by itself, and hears how things stand now.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ownServer } from './server.mjs';
import {
  CANCEL, CREATE, DELETE, FOLLOW, Frames, START, WATCH,
  ask, endless, hello, signUp, socketFor, streamsFor,
} from './service.mjs';

/** A promise to be settled from elsewhere. */
function gate() {
  let open;
  const opened = new Promise((resolve) => { open = resolve; });
  return { open, opened };
}

test('a socket that is cut under graphql-ws is opened again, and what has changed meanwhile is told', async (t) => {
  const token = await signUp();
  const { createContainer: { container: { id } } } = await ask(CREATE, { input: hello }, { token });
  const sockets = [];
  const { open, opened } = gate();
  const client = socketFor(t, token, {
    retryWait: () => opened,
    on: { opened: (socket) => sockets.push(socket) },
  });
  const frames = new Frames();
  client.subscribe({ query: FOLLOW, variables: { id } }, frames);
  await frames.until('the container runs', (frame) => frame.data.containerUpdated.state === 'RUNNING');

  sockets[0].terminate();
  const { deleteContainer: { container: deleted } } = await ask(DELETE, { input: { id } }, { token });
  const before = frames.all.length;
  open();
  await frames.end();
  assert.equal(sockets.length, 2);
  assert.ok(frames.all[before].data.containerUpdated.version >= deleted.version, 'nothing older than the break is told');
  assert.equal(frames.all.at(-1).data.containerUpdated.state, 'DELETED');
});

test('a socket that is cut again and again loses none of what it watches', async (t) => {
  const token = await signUp();
  const start = async () => (await ask(START, { input: endless }, { token })).startDemoTask.task.id;
  const ids = [await start(), await start(), await start()];
  const watched = ids.map(() => new Frames());
  const sockets = new Frames();
  // How many frames each had when the newest socket was opened.
  let before = [];
  const opened = (socket) => {
    before = watched.map((frames) => frames.all.length);
    sockets.next(socket);
  };
  const client = socketFor(t, token, { retryWait: async () => {}, on: { opened } });
  for (const [index, id] of ids.entries()) client.subscribe({ query: WATCH, variables: { id } }, watched[index]);
  for (let cuts = 0; cuts <= 3; cuts += 1) {
    if (cuts > 0) sockets.all.at(-1).terminate();
    await sockets.until('another socket', () => sockets.all.length === cuts + 1);
    for (const [index, frames] of watched.entries()) {
      await frames.until('a frame by it', (frame) => frames.all.indexOf(frame) >= before[index]);
    }
  }
  for (const [index, frames] of watched.entries()) {
    await ask(CANCEL, { input: { id: ids[index] } }, { token });
    checkEnd(await frames.end());
  }
});

/** A watched task has never stepped back, and was cancelled. */
function checkEnd(frames) {
  const tasks = frames.map((frame) => frame.data.taskUpdated);
  const versions = tasks.map((task) => task.version);
  assert.deepEqual(versions, [...versions].sort((a, b) => a - b));
  assert.equal(tasks.at(-1).state, 'CANCELLED');
}

/** Watches an endless task through the client that `connect` makes, over the replacement of its server, and cancels it then. */
async function watchedOverARestart(t, connect) {
  const server = await ownServer(t);
  const { endpoint } = server;
  const token = await signUp(endpoint);
  const { startDemoTask: { task: { id } } } = await ask(START, { input: endless }, { token, endpoint });
  const { open, opened } = gate();
  const frames = new Frames();
  const client = connect(endpoint, token, () => opened);
  client.subscribe({ query: WATCH, variables: { id } }, frames);
  await frames.until('the task at work', (frame) => frame.data.taskUpdated.state === 'RUNNING');
  await server.restart();
  const before = frames.all.length;
  open();
  await frames.until('a frame of the next server', (frame) => frames.all.indexOf(frame) >= before);
  await ask(CANCEL, { input: { id } }, { token, endpoint });
  checkEnd(await frames.end());
}

test('graphql-ws goes on with the next server when its server is replaced', async (t) => {
  const closed = [];
  await watchedOverARestart(t, (endpoint, token, retryWait) => (
    socketFor(t, token, { endpoint, retryWait, on: { closed: ({ code }) => closed.push(code) } })
  ));
  assert.equal(closed[0], 1001);
});

test('graphql-sse goes on with the next server when its server is replaced', async (t) => {
  await watchedOverARestart(t, (endpoint, token, retry) => streamsFor(t, token, { endpoint, retryAttempts: 5, retry }));
});
