// Relay: the operations in `relay/`, compiled against the published schema, and a store that stays in step with the server.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import relay from 'relay-runtime';
import { CREATE, DELETE, ENDPOINT, Frames, ask, bearer, checkFrames, hello, signUp, slow, socketFor, within } from './service.mjs';

const {
  ConnectionHandler, Environment, Network, Observable, RecordSource, ROOT_ID, Store,
  commitMutation, createOperationDescriptor, fetchQuery, getSingularSelector, requestSubscription,
} = relay;

/** The key of the list of containers in `relay/Container.js`. */
const CONNECTION = 'Container_containers';

const here = dirname(fileURLToPath(import.meta.url));
const made = mkdtempSync(join(tmpdir(), 'main-webserver-'));
after(() => rmSync(made, { recursive: true }));

/** Runs the compiler over `relay/`; gives what it has made of an operation or a fragment. */
function compiled() {
  cpSync(join(here, 'relay'), join(made, 'src'), { recursive: true });
  cpSync(join(here, '../../schema.graphql'), join(made, 'schema.graphql'));
  writeFileSync(join(made, 'package.json'), '{}');
  // Made as CommonJS: what is made names its parts without the ending of their files.
  const config = { src: './src', language: 'javascript', schema: './schema.graphql', eagerEsModules: false };
  writeFileSync(join(made, 'relay.config.json'), JSON.stringify(config));
  execFileSync(join(here, 'node_modules/.bin/relay-compiler'), ['relay.config.json'], { cwd: made, stdio: 'pipe' });
  const load = createRequire(join(made, 'src/__generated__/'));
  return (name) => load(`./${name}.graphql.js`);
}

const artefact = compiled();

/** A store, and a network to the server: over fetch, with subscriptions over graphql-ws. */
function environmentOf(token, t) {
  const socket = socketFor(t, token);
  const request = async ({ text: query }, variables) => {
    const answer = await fetch(ENDPOINT, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/graphql-response+json', ...bearer(token) },
      body: JSON.stringify({ query, variables }),
    });
    return answer.json();
  };
  const watch = ({ text: query }, variables) => Observable.create((sink) => socket.subscribe({ query, variables }, sink));
  return new Environment({ network: Network.create(request, watch), store: new Store(new RecordSource()) });
}

const change = (environment, mutation, variables) => within(new Promise((resolve, reject) => {
  commitMutation(environment, { mutation, variables, onCompleted: resolve, onError: reject });
}), 'the answer to a mutation');

function watch(environment, subscription, variables, t, updater) {
  const frames = new Frames();
  const { dispose } = requestSubscription(environment, {
    subscription,
    variables,
    updater,
    onNext: frames.next,
    onError: frames.error,
    onCompleted: frames.complete,
  });
  t.after(dispose);
  return frames;
}

/** What a mounted component shows of a query, now and after every change of the store: each is a frame. */
function shown(environment, query, variables, t) {
  const operation = createOperationDescriptor(query, variables);
  t.after(environment.retain(operation).dispose);
  const snapshot = environment.lookup(operation.fragment);
  const frames = new Frames();
  frames.next(snapshot.data);
  t.after(environment.subscribe(snapshot, ({ data }) => frames.next(data)).dispose);
  return frames;
}

/** What a component shows of a fragment it was given. */
const read = (environment, fragment, given) => environment.lookup(getSingularSelector(fragment, given)).data;

const nodes = (connection) => connection.edges.map((edge) => edge.node);
const codes = (error) => error.source.errors.map(({ extensions }) => extensions.code);

test('Relay asks, changes and watches, and what a query has shown follows', async (t) => {
  const environment = environmentOf(await signUp(), t);
  const list = artefact('ContainerListQuery');
  const first = await within(fetchQuery(environment, list, {}).toPromise());
  assert.deepEqual(first.containers.edges, []);
  const seen = shown(environment, list, {}, t);

  const connections = [ConnectionHandler.getConnectionID(ROOT_ID, CONNECTION)];
  const created = await change(environment, artefact('ContainerCreateMutation'), { input: hello, connections });
  const { id } = created.createContainer.container;
  await seen.until('the new container in the list', ({ containers }) => nodes(containers).some((node) => node.id === id));

  const watched = watch(environment, artefact('ContainerUpdatedSubscription'), { id }, t);
  const running = await watched.until('it runs', ({ containerUpdated }) => containerUpdated.state === 'RUNNING');
  const [node] = nodes(seen.all.at(-1).containers);
  assert.equal(node.state, 'RUNNING');
  const container = read(environment, artefact('Container_container'), node);
  assert.deepEqual([container.app.slug, container.ports], ['hello', running.containerUpdated.ports]);
  assert.equal(container.ports[0].inside, 8080);

  await change(environment, artefact('ContainerDeleteMutation'), { input: { id } });
  await watched.end();
  assert.equal(nodes(seen.all.at(-1).containers)[0].state, 'DELETED');
  const record = environment.getStore().getSource().get(id);
  assert.deepEqual([record.state, record.version], ['DELETED', watched.all.at(-1).containerUpdated.version]);
});

test('Relay watches a task it has started to its end', async (t) => {
  const environment = environmentOf(await signUp(), t);
  const started = await change(environment, artefact('TaskStartMutation'), { input: slow });
  const { id } = started.startDemoTask.task;
  const frames = await watch(environment, artefact('TaskUpdatedSubscription'), { id }, t).end();
  checkFrames(frames.map((frame) => frame.taskUpdated));
  assert.equal(environment.getStore().getSource().get(id).state, 'SUCCEEDED');
});

test('Relay hears the codes of refusals', async (t) => {
  const anonymous = environmentOf(undefined, t);
  const refused = await within(fetchQuery(anonymous, artefact('ContainerListQuery'), {}).toPromise().catch((error) => error));
  assert.deepEqual(codes(refused), ['UNAUTHENTICATED']);
  const started = await change(anonymous, artefact('TaskStartMutation'), { input: slow }).catch((error) => error);
  assert.deepEqual(codes(started), ['UNAUTHENTICATED']);
  const watched = watch(anonymous, artefact('TaskUpdatedSubscription'), { id: `task_${'0'.repeat(32)}` }, t);
  assert.deepEqual(codes(await watched.failure()), ['UNAUTHENTICATED']);
});

test('Relay fetches a fragment again by its node', async (t) => {
  const token = await signUp();
  const { createContainer: { container: { id } } } = await ask(CREATE, { input: hello }, { token });
  const environment = environmentOf(token, t);
  const fragment = artefact('Container_container');
  const { operation, fragmentPathInResult, identifierInfo } = fragment.metadata.refetch;
  assert.deepEqual([fragmentPathInResult, identifierInfo.identifierField], [['node'], 'id']);
  const refetched = async () => {
    const data = await within(fetchQuery(environment, operation, { id }).toPromise());
    return read(environment, fragment, data.node);
  };
  const before = await refetched();
  const { deleteContainer: { container } } = await ask(DELETE, { input: { id } }, { token });
  const now = await refetched();
  assert.equal(now.id, before.id);
  assert.ok(now.version >= container.version && container.version > before.version);
});

test('Relay watches a node, and its fragments follow', async (t) => {
  const token = await signUp();
  const { createContainer: { container: { id } } } = await ask(CREATE, { input: hello }, { token });
  const environment = environmentOf(token, t);
  const fragment = artefact('Container_container');
  const watched = watch(environment, artefact('ContainerNodeSubscription'), { id }, t);
  await watched.until('it runs', ({ node }) => read(environment, fragment, node.container).state === 'RUNNING');
  await ask(DELETE, { input: { id } }, { token });
  await watched.until('it is gone', ({ node }) => read(environment, fragment, node.container).state === 'DELETED');
});

test('Relay keeps a list live: what others create and delete comes into the query that has shown it', async (t) => {
  const token = await signUp();
  const create = async () => (await ask(CREATE, { input: hello }, { token })).createContainer.container.id;
  const older = await create();
  const environment = environmentOf(token, t);
  const list = artefact('ContainerListQuery');
  await within(fetchQuery(environment, list, {}).toPromise());
  const seen = shown(environment, list, {}, t);
  // Relay keeps what a subscription brings under a root of its own, so the list that is shown is told of it.
  watch(environment, artefact('ContainerListSubscription'), {}, t, (store) => {
    const [live, shownList] = [store.getRootField('containers'), ConnectionHandler.getConnection(store.getRoot(), CONNECTION)];
    shownList.setLinkedRecords(live.getLinkedRecords('edges'), 'edges');
    shownList.setLinkedRecord(live.getLinkedRecord('pageInfo'), 'pageInfo');
  });
  const now = (states) => ({ containers }) => {
    const found = nodes(containers).map((node) => [node.id, node.state]);
    return JSON.stringify(found) === JSON.stringify(states);
  };
  await seen.until('the older runs', now([[older, 'RUNNING']]));
  const newer = await create();
  await seen.until('both run, the newer first', now([[newer, 'RUNNING'], [older, 'RUNNING']]));
  await ask(DELETE, { input: { id: older } }, { token });
  await seen.until('the older is gone', now([[newer, 'RUNNING'], [older, 'DELETED']]));
});

test('Relay joins pages by their cursors, while a newer row comes in front of them', async (t) => {
  const token = await signUp();
  const environment = environmentOf(token, t);
  const start = async () => {
    const started = await change(environment, artefact('TaskStartMutation'), { input: { steps: 1, stepMillis: 0 } });
    return started.startDemoTask.task.id;
  };
  const ids = [];
  for (let each = 0; each < 5; each += 1) ids.unshift(await start());
  const fragment = artefact('Task_list');
  const query = artefact('TaskListQuery');
  const data = await within(fetchQuery(environment, query, {}).toPromise());
  const tasks = () => read(environment, fragment, data).tasks;
  assert.deepEqual(nodes(tasks()).map((node) => node.id), ids.slice(0, 2));

  const { operation, connection: { forward } } = fragment.metadata.refetch;
  await start();
  for (const size of [4, 5]) {
    assert.ok(tasks().pageInfo.hasNextPage);
    const variables = { [forward.count]: 2, [forward.cursor]: tasks().pageInfo.endCursor };
    await within(fetchQuery(environment, operation, variables).toPromise());
    assert.deepEqual(nodes(tasks()).map((node) => node.id), ids.slice(0, size));
  }
  assert.equal(tasks().pageInfo.hasNextPage, false);
  assert.equal(new Set(tasks().edges.map((edge) => edge.cursor)).size, 5);
});
