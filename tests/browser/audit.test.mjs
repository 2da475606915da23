// The GraphQL over HTTP specification's own audits, and the libraries that speak its other dialects.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { serverAudits } from 'graphql-http';
import { createClient } from 'graphql-sse';
import { ApolloClient, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';

const ENDPOINT = `${process.env.BASE_URL}/graphql`;

for (const audit of serverAudits({ url: ENDPOINT, fetchFn: fetch })) {
  test(`${audit.id} ${audit.name}`, async () => {
    const result = await audit.fn();
    assert.equal(result.status, 'ok', result.reason);
  });
}

test('graphql-sse, distinct connections', async () => {
  const call = (client, query, variables) => new Promise((resolve, reject) => {
    const values = [];
    client.subscribe({ query, variables }, { next: (value) => values.push(value), error: reject, complete: () => resolve(values) });
  });
  const anonymous = createClient({ url: ENDPOINT, retryAttempts: 0 });
  const person = { email: `${crypto.randomUUID()}@example.com`, name: 'Client', password: 'correct horse battery' };
  const signUp = 'mutation($input: SignUpInput!) { signUp(input: $input) { accessToken } }';
  const [{ data }] = await call(anonymous, signUp, { input: person });
  const client = createClient({
    url: ENDPOINT,
    retryAttempts: 0,
    headers: { authorization: `Bearer ${data.signUp.accessToken}` },
  });
  const start = 'mutation { startDemoTask(input: { steps: 5, stepMillis: 20 }) { task { id } } }';
  const [started] = await call(client, start);
  const watch = 'subscription($id: ID!) { taskUpdated(id: $id) { state version } }';
  const frames = await call(client, watch, { id: started.data.startDemoTask.task.id });
  const versions = frames.map((frame) => frame.data.taskUpdated.version);
  assert.deepEqual(versions, [...versions].sort((a, b) => a - b));
  assert.equal(frames.at(-1).data.taskUpdated.state, 'SUCCEEDED');
  const [refused] = await call(anonymous, watch, { id: started.data.startDemoTask.task.id });
  assert.equal(refused.errors[0].extensions.code, 'UNAUTHENTICATED');
});

test('Apollo Client with automatic persisted queries, by GET', async () => {
  const sent = [];
  const http = new HttpLink({
    uri: ENDPOINT,
    useGETForQueries: true,
    fetch: (url, options) => {
      sent.push([options.method, String(url).includes('query=') || String(options.body ?? '').includes('"query"')]);
      return fetch(url, options);
    },
  });
  const persisted = new PersistedQueryLink({ sha256: (text) => createHash('sha256').update(text).digest('hex') });
  const ask = async () => {
    const client = new ApolloClient({ link: persisted.concat(http), cache: new InMemoryCache() });
    const { data } = await client.query({ query: gql('query { apps(first: 1) { nodes { id name } } }') });
    client.stop();
    return data;
  };
  const first = await ask();
  assert.deepEqual(await ask(), first);
  assert.deepEqual(sent.map(([, hasText]) => hasText), [false, true, false]);
});
