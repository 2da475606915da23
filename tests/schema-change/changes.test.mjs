import assert from 'node:assert/strict';
import { test } from 'node:test';
import { changes, refused } from './changes.mjs';

const BEFORE = `
  type Query { task(id: ID!): Task tasks(first: Int): [Task!]! }
  type Task { id: ID! state: State! }
  enum State { QUEUED RUNNING }
  input Filter { state: State }
`;

const after = (from, to) => changes(BEFORE, BEFORE.replace(from, to));

test('a removed field breaks', () => {
  const { breaking, safe } = after('state: State!', '');
  assert.deepEqual(breaking, ['Task.state was removed.']);
  assert.deepEqual(safe, []);
});

test('an added field is safe', () => {
  assert.deepEqual(after('id: ID! state', 'id: ID! kind: String state'), { safe: ['Task.kind was added.'], dangerous: [], breaking: [] });
});

test('an added type is safe', () => {
  assert.deepEqual(after('enum State', 'type Worker { id: ID! } enum State').safe, ['Worker was added.']);
});

test('an added value of an enum is dangerous', () => {
  const { dangerous, breaking } = after('RUNNING', 'RUNNING FAILED');
  assert.deepEqual([dangerous.length, breaking], [1, []]);
});

test('what was optional and is required breaks', () => {
  assert.equal(after('first: Int', 'first: Int!').breaking.length, 1);
  assert.equal(after('input Filter { ', 'input Filter { kind: String! ').breaking.length, 1);
});

test('another description is no change', () => {
  assert.deepEqual(after('type Task', '"A task." type Task'), { safe: [], dangerous: [], breaking: [] });
});

test('a breaking change passes when it is agreed to, word for word', () => {
  const { breaking } = after('state: State!', '');
  assert.deepEqual(refused(breaking, '# why\nTask.state was removed.\n'), []);
  assert.deepEqual(refused(breaking, 'Task.id was removed.'), breaking);
  assert.deepEqual(refused(breaking, '# Task.state was removed.'), breaking);
});
