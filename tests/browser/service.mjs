// The service as its clients see it: where it is, who asks, the operations the tests share, and what they wait for.
import assert from 'node:assert/strict';
import { createClient as createStreams } from 'graphql-sse';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

export const ENDPOINT = `${process.env.BASE_URL}/graphql`;

export const SIGN_UP = 'mutation SignUp($input: SignUpInput!) { signUp(input: $input) { accessToken user { id email } } }';
export const APPS = 'query Apps { apps { nodes { id slug } pageInfo { hasNextPage } } }';
export const START = 'mutation Start($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id state } } }';
export const CANCEL = 'mutation Cancel($input: CancelTaskInput!) { cancelTask(input: $input) { task { id state } } }';
export const WATCH = 'subscription Watch($id: ID!) { taskUpdated(id: $id) { id state progress version } }';
export const TASK = 'query Task($id: ID!) { task(id: $id) { id state progress version } }';
export const CREATE = 'mutation Create($input: CreateContainerInput!) { createContainer(input: $input) { container { id state version } } }';
export const DELETE = 'mutation Delete($input: DeleteContainerInput!) { deleteContainer(input: $input) { container { id state version } } }';
export const FOLLOW = 'subscription Follow($id: ID!) { containerUpdated(id: $id) { id state version } }';

export const person = () => ({ email: `${crypto.randomUUID()}@example.com`, name: 'Client', password: 'correct horse battery' });
export const slow = { steps: 8, stepMillis: 50 };
/** Longer than any test: it ends by being cancelled, or with the server. */
export const endless = { steps: 1000, stepMillis: 500 };
export const hello = { app: 'hello', region: 'us-east-1' };
export const bearer = (token) => (token ? { authorization: `Bearer ${token}` } : {});

const PATIENCE = 20_000;

/** The promise's outcome, or a failure that names what did not come in time. */
export function within(promise, what = 'the end') {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`did not come in time: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Asks over plain HTTP; what the answer has in `data`. */
export async function ask(query, variables = {}, { token, endpoint = ENDPOINT } = {}) {
  const answer = await fetch(endpoint, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...bearer(token) },
    body: JSON.stringify({ query, variables }),
  });
  const { data, errors } = await answer.json();
  assert.equal(errors, undefined, JSON.stringify(errors));
  return data;
}

/** Opens an account; its access token. */
export async function signUp(endpoint = ENDPOINT) {
  const { signUp: credentials } = await ask(SIGN_UP, { input: person() }, { endpoint });
  return credentials.accessToken;
}

/** A client of graphql-ws, disposed of when the test `t` has ended, however it ends. */
export function socketFor(t, token, { endpoint = ENDPOINT, ...options } = {}) {
  const client = createClient({
    url: endpoint.replace('http', 'ws'),
    webSocketImpl: WebSocket,
    connectionParams: bearer(token),
    ...options,
  });
  t.after(() => client.dispose());
  return client;
}

/** The same of graphql-sse; what fails is not tried again unless the options say so. */
export function streamsFor(t, token, { endpoint = ENDPOINT, retryAttempts = 0, ...options } = {}) {
  const client = createStreams({ url: endpoint, headers: bearer(token), retryAttempts, ...options });
  t.after(() => client.dispose());
  return client;
}

/** Sends one operation through a client that subscribes (graphql-ws, graphql-sse); its only answer. */
export async function only(client, query, variables) {
  const frames = new Frames();
  client.subscribe({ query, variables }, frames);
  const answers = await frames.end();
  assert.equal(answers.length, 1, JSON.stringify(answers));
  return answers[0];
}

/** What a subscription has brought so far: a sink that can be waited on. */
export class Frames {
  all = [];
  #isOver = false;
  #failure;
  #heard = () => {};

  next = (frame) => {
    this.all.push(frame);
    this.#heard();
  };

  error = (failure) => {
    this.#failure = failure;
    this.#heard();
  };

  complete = () => {
    this.#isOver = true;
    this.#heard();
  };

  #await(what, found) {
    const waited = new Promise((resolve, reject) => {
      this.#heard = () => {
        const value = found();
        if (value) resolve(value);
        else if (this.#failure) reject(this.#failure);
        else if (this.#isOver) reject(new Error(`the end came before ${what}`));
      };
      this.#heard();
    });
    return within(waited, what).catch((error) => {
      if (error instanceof Error) error.message += `; of ${this.all.length} frames the last is ${JSON.stringify(this.all.at(-1))?.slice(0, 500)}`;
      throw error;
    });
  }

  /** The first frame that passes `check`, among those that came and those to come. */
  until(what, check) {
    return this.#await(what, () => this.all.find(check));
  }

  /** All frames, when it has completed. */
  end() {
    return this.#await('the end', () => this.#isOver && this.all);
  }

  /** Why it failed. */
  failure() {
    return this.#await('a failure', () => this.#failure);
  }
}

/** Waits until `check`, asked again and again, gives something. */
export async function eventually(what, check) {
  const deadline = Date.now() + PATIENCE;
  let seen;
  while (Date.now() < deadline) {
    seen = await check();
    if (seen) return seen;
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  return assert.fail(`did not happen in time: ${what}`);
}

/** What is true of the frames of a task that was watched to its end. */
export function checkFrames(frames) {
  const versions = frames.map((frame) => frame.version);
  assert.deepEqual(versions, [...versions].sort((a, b) => a - b));
  assert.equal(new Set(versions).size, versions.length, `each is another: ${versions}`);
  assert.ok(frames.length >= 4, `${frames.length} frames`);
  assert.deepEqual([frames.at(-1).state, frames.at(-1).progress], ['SUCCEEDED', 100]);
}
