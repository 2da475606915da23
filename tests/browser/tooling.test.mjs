// The compiler of typed clients' types, on the published schema. Relay's compiler is `relay.test.mjs`'s.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { codegen } from '@graphql-codegen/core';
import * as operationsPlugin from '@graphql-codegen/typescript-operations';
import { buildSchema, parse, printSchema } from 'graphql';

const here = path.dirname(fileURLToPath(import.meta.url));
const SCHEMA = readFileSync(path.join(here, '../../schema.graphql'), 'utf8');
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
