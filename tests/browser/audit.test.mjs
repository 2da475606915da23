// The GraphQL over HTTP specification's own audits, and automatic persisted queries beside it.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { serverAudits } from 'graphql-http';
import { ApolloClient, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { ENDPOINT } from './service.mjs';

for (const audit of serverAudits({ url: ENDPOINT, fetchFn: fetch })) {
  test(`${audit.id} ${audit.name}`, async () => {
    const result = await audit.fn();
    assert.equal(result.status, 'ok', result.reason);
  });
}

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
