// HOT_RELOAD: the script that compiles the mounted sources and runs what comes of them, on a project of the test's own.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

// A compiler that copies: src/main.rs is a shell script here, and one with the word "wrong" does not compile.
const CARGO = `#!/bin/bash
grep -q wrong src/main.rs && exit 101
mkdir -p "$CARGO_TARGET_DIR/debug"
cp src/main.rs "$CARGO_TARGET_DIR/debug/new" && chmod +x "$CARGO_TARGET_DIR/debug/new"
mv "$CARGO_TARGET_DIR/debug/new" "$CARGO_TARGET_DIR/debug/main-webserver"
`;
const program = (version) => `#!/bin/bash
trap 'echo ${version} ends >>said; exit 0' TERM
echo ${version} runs "$@" >>said
while :; do sleep 0.1 & wait $!; done
`;

test('a changed source is compiled and started, a wrong one leaves what runs, and an end ends both', async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'reload-'));
  for (const name of ['docker', 'src', 'migration', 'bin']) mkdirSync(join(folder, name));
  for (const name of ['Cargo.toml', 'Cargo.lock']) writeFileSync(join(folder, name), '');
  cpSync(new URL('../../docker/hot_reload.sh', import.meta.url), join(folder, 'docker/hot_reload.sh'));
  writeFileSync(join(folder, 'bin/cargo'), CARGO);
  chmodSync(join(folder, 'bin/cargo'), 0o755);
  const source = (text) => writeFileSync(join(folder, 'src/main.rs'), text);
  const said = async (words) => {
    const deadline = Date.now() + 20_000;
    for (let text = ''; ; await pause(50)) {
      try {
        text = readFileSync(join(folder, 'said'), 'utf8');
      } catch {
        // Nothing was said yet.
      }
      if (text === words) return;
      assert.ok(Date.now() < deadline, `it said ${text} and not ${words}`);
    }
  };
  source(program('one'));
  const env = { PATH: `${folder}/bin:/usr/bin:/bin`, CARGO_TARGET_DIR: join(folder, 'target') };
  const child = spawn(join(folder, 'docker/hot_reload.sh'), ['web'], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (text) => (log += text));
  const ended = new Promise((resolve) => child.on('exit', (code) => resolve(code)));
  context.after(() => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  });
  await said('one runs web\n');
  source(program('two'));
  await said('one runs web\none ends\ntwo runs web\n');
  source('wrong');
  while (!log.includes('what runs stays')) await pause(50);
  await said('one runs web\none ends\ntwo runs web\n');
  source(program('three'));
  await said('one runs web\none ends\ntwo runs web\ntwo ends\nthree runs web\n');
  child.kill('SIGTERM');
  assert.equal(await ended, 0);
  await said('one runs web\none ends\ntwo runs web\ntwo ends\nthree runs web\nthree ends\n');
});
