// Compares schema.graphql with the one clients know: that of $SCHEMA_BASE, of the newest release, of where this branch left the
// main one, or of the commit before.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSchema, changes, refused } from './changes.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.join(here, '../..');

function git(...given) {
  try {
    return execFileSync('git', given, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 1 << 26 }).trim();
  } catch {
    return null;
  }
}

function base() {
  const head = git('rev-parse', 'HEAD');
  const candidates = [
    () => process.env.SCHEMA_BASE,
    () => git('describe', '--tags', '--abbrev=0', '--match', 'v*'),
    () => git('merge-base', 'HEAD', 'origin/main'),
    () => git('merge-base', 'HEAD', 'main'),
    () => 'HEAD~1',
  ];
  for (const candidate of candidates) {
    const commit = candidate();
    const id = commit && git('rev-parse', '--verify', '--quiet', `${commit}^{commit}`);
    if (id && (id !== head || commit === process.env.SCHEMA_BASE)) return commit;
  }
  return null;
}

const commit = base();
const before = commit && git('show', `${commit}:schema.graphql`);
if (!before) {
  console.log('nothing to compare with: no earlier commit is here, or it has no schema');
  process.exit(0);
}
const after = readFileSync(path.join(root, 'schema.graphql'), 'utf8');
buildSchema(after);
try {
  buildSchema(before);
} catch (error) {
  // What clients could not read they do not depend on.
  console.log(`nothing to compare with: the schema of ${commit} cannot be read: ${error.message}`);
  process.exit(0);
}
const found = changes(before, after);
console.log(`since ${commit}`);
for (const [kind, list] of Object.entries(found)) {
  console.log(`${kind}: ${list.length}`);
  for (const change of list) console.log(`  ${change}`);
}
const failed = refused(found.breaking, readFileSync(path.join(here, 'allowed.txt'), 'utf8'));
if (failed.length > 0) {
  console.log('these break clients; when they are meant to, put these lines into tests/schema-change/allowed.txt:');
  for (const change of failed) console.log(change);
  process.exit(1);
}
