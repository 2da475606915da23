// The compilers of typed clients, on the published schema: what they make has to fit what the server answers.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { codegen } from '@graphql-codegen/core';
import * as operationsPlugin from '@graphql-codegen/typescript-operations';
import { buildSchema, parse, printSchema } from 'graphql';
import relay from 'relay-runtime';

const here = path.dirname(fileURLToPath(import.meta.url));
const SCHEMA = readFileSync(path.join(here, '../../schema.graphql'), 'utf8');
const ENDPOINT = `${process.env.BASE_URL}/graphql`;
const bin = (name) => path.join(here, 'node_modules/.bin', name);

function folder(t) {
  const made = mkdtempSync(path.join(tmpdir(), 'main-webserver-'));
  t.after(() => rmSync(made, { recursive: true }));
  return made;
}

test('graphql-codegen makes types that a program compiles with', async (t) => {
  const at = folder(t);
  const schema = buildSchema(SCHEMA);
  const document = parse(`
    query Apps($first: Int) { apps(first: $first) { nodes { id slug ports } pageInfo { endCursor } } }
    mutation Start($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id state } } }
    subscription Watch($id: ID!) { taskUpdated(id: $id) { state progress } }
  `);
  const types = await codegen({
    filename: 'types.ts',
    schema: parse(printSchema(schema)),
    schemaAst: schema,
    documents: [{ location: 'operations.graphql', document }],
    plugins: [{ operations: {} }],
    pluginMap: { operations: operationsPlugin },
    config: { scalars: { DateTime: 'string', JSON: 'unknown' } },
  });
  writeFileSync(path.join(at, 'types.ts'), types);
  const use = (progress) => `
    import type { AppsQuery, AppsQueryVariables, WatchSubscription } from './types';
    export const variables: AppsQueryVariables = { first: 1 };
    export const slugs = (answer: AppsQuery): string[] => answer.apps.nodes.map((app) => app.slug);
    export const done = (answer: WatchSubscription): ${progress} => answer.taskUpdated.progress;
  `;
  const compile = (text) => {
    writeFileSync(path.join(at, 'use.ts'), text);
    const flags = ['--strict', '--noEmit', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler', 'use.ts'];
    execFileSync(bin('tsc'), flags, { cwd: at, stdio: 'pipe' });
  };
  compile(use('number'));
  assert.throws(() => compile(use('string')), 'a wrong type is found');
});

test('Relay compiles against the schema, and its runtime reads and stores what comes', async (t) => {
  const at = folder(t);
  mkdirSync(path.join(at, 'src'));
  writeFileSync(path.join(at, 'schema.graphql'), SCHEMA);
  writeFileSync(path.join(at, 'package.json'), '{}');
  const text = `query appsQuery($first: Int) { apps(first: $first) { edges { cursor node { id slug } } pageInfo { hasNextPage } } }`;
  writeFileSync(path.join(at, 'src/apps.js'), `import { graphql } from 'relay-runtime';\nexport const query = graphql\`${text}\`;\n`);
  const config = { src: './src', language: 'javascript', schema: './schema.graphql', eagerEsModules: true };
  writeFileSync(path.join(at, 'relay.config.json'), JSON.stringify(config));
  execFileSync(bin('relay-compiler'), ['relay.config.json'], { cwd: at, stdio: 'pipe' });
  const made = path.join(at, 'src/__generated__/appsQuery.graphql.js');
  const artefact = (await import(`data:text/javascript,${encodeURIComponent(readFileSync(made, 'utf8'))}`)).default;

  const { Environment, Network, RecordSource, Store, fetchQuery } = relay;
  const network = Network.create(async ({ text: query }, variables) => {
    const answer = await fetch(ENDPOINT, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/graphql-response+json' },
      body: JSON.stringify({ query, variables }),
    });
    return answer.json();
  });
  const environment = new Environment({ network, store: new Store(new RecordSource()) });
  const data = await fetchQuery(environment, artefact, { first: 1 }).toPromise();
  assert.equal(data.apps.edges[0].node.slug, 'hello');
  assert.equal(environment.getStore().getSource().get(data.apps.edges[0].node.id).slug, 'hello');
});
