// The private engine, the compose stack on it, and the service as its clients see it.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

/** A clean clone of the project. */
export const CLONE = process.env.CLONE;
const ENGINE = process.env.TEST_DOCKER_HOST;
/** Its socket, and the group that may use it. */
export const SOCKET = ENGINE.replace('unix://', '');
export const SOCKET_GROUP = statSync(SOCKET).gid;
const COMPOSE = process.env.COMPOSE.split(' ');

export async function freePort() {
  const server = createServer();
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

/** Runs a program to its end; what it printed. */
export function run(program, args, env = {}, seconds = 600) {
  return new Promise((resolve, reject) => {
    const options = { env: { ...process.env, DOCKER_HOST: ENGINE, ...env }, cwd: CLONE, timeout: seconds * 1000, maxBuffer: 1 << 26 };
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error) reject(new Error(`${program} ${args.join(' ')}: ${error.code}\n${stdout.slice(-2000)}\n${stderr.slice(-4000)}`));
      else resolve(stdout.trim());
    });
  });
}

export const docker = (...args) => run('docker', args);
export const compose = (args, env) => run(COMPOSE[0], [...COMPOSE.slice(1), '-f', 'docker/docker-compose.yml', ...args], env);

/** Fills docker/.env as its example says, with `more` in the place of what it has. */
export function configure(more) {
  const lines = readFileSync(join(CLONE, 'docker/.env.example'), 'utf8');
  const values = { SECRET_KEY: randomBytes(32).toString('hex'), POSTGRES_PASSWORD: randomBytes(32).toString('hex'), ...more };
  const filled = Object.entries(values).reduce((text, [name, value]) => {
    assert.match(text, new RegExp(`^#?${name}=`, 'm'), `${name} is in docker/.env.example`);
    return text.replace(new RegExp(`^#?${name}=.*$`, 'm'), `${name}=${value}`);
  }, lines);
  writeFileSync(join(CLONE, 'docker/.env'), filled, { mode: 0o600 });
  return values;
}

/** Waits until `check` gives something, for so many seconds; what it gave. */
export async function until(what, check, seconds = 60) {
  const deadline = Date.now() + seconds * 1000;
  for (let last; ; await pause(100)) {
    try {
      const found = await check();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    assert.ok(Date.now() < deadline, `did not come in ${seconds} s: ${what} ${last ?? ''}`);
  }
}

export const health = async (container) => docker('inspect', '--format', '{{.State.Health.Status}}', container);

/** Someone who asks the service at `base`. */
export class Person {
  constructor(base, token) {
    Object.assign(this, { base, token });
  }

  async send(query, variables, more = {}) {
    return fetch(`${this.base}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(this.token ? { authorization: `Bearer ${this.token}` } : {}), ...more.headers },
      body: JSON.stringify({ query, variables }),
      signal: AbortSignal.timeout(more.milliseconds ?? 60_000),
    });
  }

  async ask(query, variables = {}) {
    const { data, errors } = await (await this.send(query, variables)).json();
    assert.equal(errors, undefined, JSON.stringify(errors));
    return data;
  }

  /** A new person with an account. */
  async signUp() {
    const input = { email: `${crypto.randomUUID()}@example.com`, name: 'Ada', password: 'correct horse battery' };
    const { signUp } = await this.ask('mutation($input: SignUpInput!) { signUp(input: $input) { accessToken } }', { input });
    return new Person(this.base, signUp.accessToken);
  }

  async logIn(email, password) {
    const { logIn } = await this.ask('mutation($input: LogInInput!) { logIn(input: $input) { accessToken } }', { input: { email, password } });
    return new Person(this.base, logIn.accessToken);
  }

  /** Every frame of a subscription, until it is over. */
  async follow(subscription, variables) {
    const answer = await this.send(subscription, variables, { headers: { accept: 'text/event-stream' }, milliseconds: 90_000 });
    const text = await answer.text();
    assert.match(text, /event: complete/, text);
    return [...text.matchAll(/^data: (.+)$/gm)].map(([, data]) => JSON.parse(data).data);
  }

  /** Asks for a container, watches its task to the end, and gives the container as it then is. */
  async container() {
    const input = { app: 'hello', region: 'us-east-1' };
    const { createContainer } = await this.ask(
      'mutation($input: CreateContainerInput!) { createContainer(input: $input) { container { id } task { id } } }', { input });
    const frames = await this.follow('subscription($id: ID!) { taskUpdated(id: $id) { state error { code message } } }', { id: createContainer.task.id });
    const last = frames.at(-1).taskUpdated;
    assert.equal(last.state, 'SUCCEEDED', JSON.stringify(last));
    const { container } = await this.ask(
      'query($id: ID!) { container(id: $id) { id state provider ports { published } } }', { id: createContainer.container.id });
    return container;
  }
}

/** Asks without a pause until it is ended; what became of each request. */
export function load(ask) {
  const counts = { asked: 0, failed: 0, errors: [] };
  let goes = true;
  const ended = (async () => {
    while (goes) {
      counts.asked += 1;
      await ask().catch((error) => {
        counts.failed += 1;
        counts.errors.push(String(error.cause?.code ?? error.message).slice(0, 100));
      });
      await pause(10);
    }
  })();
  return { counts, end: async () => ((goes = false), await ended, counts) };
}

/** Leaves a program running; its output goes to this one's. */
export function start(program, args, env = {}) {
  return spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'inherit', 'inherit'] });
}
