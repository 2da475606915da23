// The scripts of docker/ that deploy, roll back and configure: run as they are, on environments of the test's own.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

const scripts = new URL('../../docker/', import.meta.url).pathname;
const image = (letter) => `registry/main-webserver@sha256:${letter.repeat(64)}`;
let folder, server, address;

// What runs where: a deployment writes a file, and the server says what the file has.
before(async () => {
  server = createServer((request, answer) => {
    const [, name, path] = request.url.split('/');
    const file = join(folder, `${name}.runs`);
    const { commit, ready } = existsSync(file) ? JSON.parse(readFileSync(file)) : {};
    answer.statusCode = commit && (path === 'version' || ready) ? 200 : 503;
    answer.end(path === 'version' ? JSON.stringify({ version: '0.1.0', commit }) : '');
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  address = `http://127.0.0.1:${server.address().port}`;
});
after(() => server.close());

beforeEach((context) => {
  folder = mkdtempSync(join(tmpdir(), 'scripts-'));
  // An image is good unless its digest is all e (never ready) or f (its deployment fails).
  program('deploy', `case "$2" in *:ffff*) exit 1 ;; *:eeee*) ready=false ;; *) ready=true ;; esac
    commit="$(echo "$2" | sed 's/.*://' | cut -c1)"
    echo "{\\"commit\\": \\"$commit\\", \\"ready\\": $ready}" >${folder}/"$1".runs`);
  const line = (name) => `${name} ${address}/${name}/ ${folder}/deploy ${name} "$IMAGE"\n`;
  writeFileSync(join(folder, 'environments'), `# of the test\n\n${['dev', 'staging', 'prod'].map(line).join('')}`);
  context.after?.(() => rmSync(folder, { recursive: true }));
});

function program(name, body) {
  writeFileSync(join(folder, name), `#!/bin/bash\n${body}\n`);
  chmodSync(join(folder, name), 0o755);
}

function run(script, args, env = {}) {
  const settings = {
    PATH: `${folder}:/usr/bin:/bin`, ENVIRONMENTS: join(folder, 'environments'), DEPLOYMENTS: join(folder, 'deployments'),
    PATIENCE: '2', IN_A_ROW: '2', ...env,
  };
  return new Promise((ended) => {
    execFile(join(scripts, script), args, { env: settings }, (error, stdout, stderr) =>
      ended({ code: error?.code ?? 0, stdout, stderr }));
  });
}

const runs = (name) => JSON.parse(readFileSync(join(folder, `${name}.runs`))).commit;
async function works(script, ...args) {
  const { code, stderr } = await run(script, args);
  assert.equal(code, 0, stderr);
}
async function refuses(words, script, ...args) {
  const { code, stderr } = await run(script, args);
  assert.notEqual(code, 0, stderr);
  assert.match(stderr, words);
}

test('one image goes from dev to staging to prod', async () => {
  await works('promote.sh', 'dev', image('a'), 'a');
  await works('promote.sh', 'staging');
  await works('promote.sh', 'prod', image('a'));
  assert.deepEqual(['dev', 'staging', 'prod'].map(runs), ['a', 'a', 'a']);
});

test('an image that was not seen to work before goes no further', async () => {
  await works('promote.sh', 'dev', image('a'), 'a');
  await refuses(/was not seen to work in 'dev'/, 'promote.sh', 'staging', image('b'));
  await refuses(/nothing was seen to work in 'staging'/, 'promote.sh', 'prod');
  assert.equal(existsSync(join(folder, 'prod.runs')), false);
});

test('an image is named by its digest', async () => {
  await refuses(/has no digest/, 'promote.sh', 'dev', 'registry/main-webserver:latest', 'a');
  await refuses(/an image and its commit are expected/, 'promote.sh', 'dev', image('a'));
  await refuses(/has no digest/, 'promote.sh', 'dev', `${image('a')}$(touch ${folder}/broken)`, 'a');
  assert.equal(existsSync(join(folder, 'broken')), false);
});

test('an image that is never ready is not proven', async () => {
  await refuses(/not ready as e after 2 s/, 'promote.sh', 'dev', image('e'), 'e');
  await refuses(/nothing was seen to work in 'dev'/, 'promote.sh', 'staging');
});

test('an image that says it is another commit is not proven', async () => {
  await refuses(/not ready as other after 2 s \(it says 'a'\)/, 'promote.sh', 'dev', image('a'), 'other');
});

test('a deployment that ends with an error is not proven', async () => {
  await refuses(/ended with an error/, 'promote.sh', 'dev', image('f'), 'f');
});

test('a rollback brings back what worked before, and a second one goes further back', async () => {
  for (const letter of ['a', 'b', 'c']) await works('promote.sh', 'dev', image(letter), letter);
  await works('rollback.sh', 'dev');
  assert.equal(runs('dev'), 'b');
  await works('rollback.sh', 'dev');
  assert.equal(runs('dev'), 'a');
  await refuses(/nothing else was seen to work/, 'rollback.sh', 'dev');
  await refuses(/was not seen to work in 'dev'/, 'promote.sh', 'staging', image('c'));
});

test('a rollback from what does not work brings back the last that did', async () => {
  await works('promote.sh', 'dev', image('a'), 'a');
  await refuses(/not ready/, 'promote.sh', 'dev', image('e'), 'e');
  await works('rollback.sh', 'dev');
  assert.equal(runs('dev'), 'a');
});

test('a rollback goes to a named image that worked there', async () => {
  for (const letter of ['a', 'b', 'c']) await works('promote.sh', 'dev', image(letter), letter);
  await works('rollback.sh', 'dev', image('a'));
  assert.equal(runs('dev'), 'a');
  await refuses(/was not seen to work/, 'rollback.sh', 'dev', image('d'));
});

const secret = 'SECRET_KEY=s3cr3t-of-the-test';
const target = () => join(folder, '.env');
const retrieve = (args, env) => run('retrieve_config.sh', ['--file', target(), ...args], env);
const database = { CONFIG_DB_URL: 'postgres://config', CONFIG_KEY: 'k' };
// Only what was asked for stands beside the file afterwards.
const left = () => readdirSync(folder).filter((name) => name.startsWith('.env')).sort();

test('the file comes whole from the configuration database, for its owner alone', async () => {
  program('main-webserver', `[ "$*" = "--env-file /dev/null config env --environment staging" ] && echo '${secret}' && echo LOG=info`);
  const { code, stdout, stderr } = await retrieve(['--environment', 'staging'], database);
  assert.deepEqual([code, stdout, stderr], [0, '', `${target()}\n`]);
  assert.equal(readFileSync(target(), 'utf8'), `${secret}\nLOG=info\n`);
  assert.equal(statSync(target()).mode & 0o777, 0o600);
});

test('what was there before is kept beside it', async () => {
  writeFileSync(target(), 'LOG=old\n', { mode: 0o644 });
  program('main-webserver', 'echo LOG=new');
  assert.equal((await retrieve([], database)).code, 0);
  assert.equal(readFileSync(target(), 'utf8'), 'LOG=new\n');
  assert.equal(readFileSync(`${target()}.before`, 'utf8'), 'LOG=old\n');
  assert.equal(statSync(`${target()}.before`).mode & 0o777, 0o600);
});

for (const [what, body, words] of [
  ['fails after its first lines', `echo '${secret}'; exit 1`, /gave nothing/],
  ['ends in the middle of a line', `printf 'LOG=info\\n${secret}'`, /in the middle of a line/],
  ['says nothing', 'true', /not one value/],
  ['says something else', `echo '${secret}'; echo 'error: s3cr3t-of-the-test'`, /line 2 of the answer/],
]) {
  test(`the file stays as it is when the configuration database ${what}`, async () => {
    writeFileSync(target(), 'LOG=old\n');
    program('main-webserver', body);
    const { code, stderr } = await retrieve([], database);
    assert.equal(code, 1);
    assert.match(stderr, words);
    assert.doesNotMatch(stderr, /s3cr3t/);
    assert.equal(readFileSync(target(), 'utf8'), 'LOG=old\n');
    assert.deepEqual(left(), ['.env']);
  });
}

test('the platform is asked when it is named', async () => {
  program('heroku', `[ "$*" = "config --shell --app main" ] && echo "SECRET_KEY='with a # and spaces'"`);
  assert.equal((await retrieve(['--app', 'main'])).code, 0);
  assert.equal(readFileSync(target(), 'utf8'), "SECRET_KEY='with a # and spaces'\n");
});

test('what is missing is named', async () => {
  for (const [args, env, words] of [
    [['--app', 'main'], {}, /heroku is not installed/],
    [[], {}, /CONFIG_DB_URL is not set/],
    [['--environment', 'production'], database, /none of dev, staging, prod/],
    [['--file'], {}, /--file needs a value/],
    [['--everything'], {}, /'--everything' is no option/],
  ]) {
    const { code, stderr } = await retrieve(args, env);
    assert.equal(code, 1);
    assert.match(stderr, words);
  }
  assert.match((await retrieve(['--help'])).stdout, /--environment NAME/);
  assert.deepEqual(left(), []);
});
