// People, tools and mistakes: what a deployment meets, without an end. Each is a loop at a pace of its own.
import { createClient } from 'graphql-ws';
import { request } from 'node:http';
import WebSocket from 'ws';

const PASSWORD = 'correct horse battery';
const CREATE = `mutation($input: CreateContainerInput!) { createContainer(input: $input) { container { id } task { id } } }`;
const DEMO = `mutation($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id } } }`;
const LOG_IN = `mutation($input: LogInInput!) { logIn(input: $input) { accessToken refreshToken } }`;
const REFRESH = `mutation($input: RefreshSessionInput!) { refreshSession(input: $input) { accessToken refreshToken } }`;
const LOG_OUT = `mutation { logOut { __typename } }`;
const LISTS = [
  `{ viewer { name } containers(first: 20) { totalCount nodes { id state app { name } owner { email } } pageInfo { endCursor } } }`,
  `{ tasks(first: 20, filter: { state: { eq: SUCCEEDED } }, orderBy: [{ field: CREATED_AT, direction: DESC }]) { nodes { id kind state } } }`,
  `{ containersAggregate(groupBy: [{ field: STATE }]) { group { state } count } apps { nodes { slug } } }`,
];
/** How long anything may take to its end. */
const PATIENCE = 90_000;
/** Sockets that stay. */
const HELD = 150;

const nap = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

/** What has become of everything. */
export class Ledger {
  requests = 0;
  sockets = 0;
  containers = 0;
  tasks = 0;
  failures = [];
  millis = [];

  fail(what, error) {
    this.failures.push(`${new Date().toISOString()} ${what}: ${error.message ?? JSON.stringify(error)}`);
  }

  /** The 99th percentile of the answers since the last call, in ms. */
  slowest() {
    const sorted = this.millis.sort((one, other) => one - other);
    this.millis = [];
    return sorted[Math.floor(sorted.length * 0.99)] ?? 0;
  }
}

/** A place to send to: the web servers of one deployment, in turn. */
export class Place {
  constructor(name, ports, ledger) {
    Object.assign(this, { name, ports, ledger, turn: 0 });
  }

  port() {
    this.turn = (this.turn + 1) % this.ports.length;
    return this.ports[this.turn];
  }

  /** One request over a connection of its own; the answer as it came. */
  async post(body, { token, address } = {}) {
    const headers = { 'content-type': 'application/json' };
    if (token) headers.authorization = `Bearer ${token}`;
    const began = performance.now();
    const text = await new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port: this.port(), path: '/graphql', method: 'POST', headers, agent: false,
        timeout: 30_000, localAddress: address };
      const sent = request(options, async (answer) => {
        let text = '';
        answer.setEncoding('utf8').on('data', (part) => { text += part; }).on('end', () => resolve(text));
        answer.on('error', reject);
      });
      sent.on('timeout', () => sent.destroy(new Error('no answer in 30 s'))).on('error', reject).end(body);
    });
    this.ledger.requests += 1;
    this.ledger.millis.push(performance.now() - began);
    return JSON.parse(text);
  }

  async ask(query, variables, options) {
    const answer = await this.post(JSON.stringify({ query, variables }), options);
    if (answer.errors) throw answer.errors[0];
    return answer.data;
  }

  socket(token) {
    return createClient({
      url: () => `ws://127.0.0.1:${this.port()}/graphql`,
      webSocketImpl: WebSocket,
      connectionParams: () => ({ authorization: `Bearer ${typeof token === 'function' ? token() : token}` }),
      retryAttempts: 5,
      lazy: true,
    });
  }
}

/** Reads a subscription until `enough(data)`. */
async function watch(client, query, enough) {
  const results = client.iterate({ query });
  const late = setTimeout(() => results.return(), PATIENCE);
  try {
    for await (const { data, errors } of results) {
      if (errors) throw errors[0];
      if (enough(data)) return;
    }
  } finally {
    clearTimeout(late);
  }
  throw new Error(`not seen: ${query}`);
}

class Person {
  constructor(place, name) {
    this.place = place;
    this.email = `${name}@example.com`;
  }

  async signUp() {
    const input = { email: this.email, name: 'Somebody', password: PASSWORD };
    const data = await this.place.ask('mutation($input: SignUpInput!) { signUp(input: $input) { accessToken refreshToken } }', { input });
    this.take(data.signUp);
    return this;
  }

  take({ accessToken, refreshToken }) {
    this.token = accessToken;
    this.refreshToken = refreshToken;
  }

  ask(query, variables) {
    return this.place.ask(query, variables, { token: this.token });
  }

  /** Before the token ends, as a client does. */
  async refresh() {
    this.take((await this.ask(REFRESH, { input: { refreshToken: this.refreshToken } })).refreshSession);
  }
}

/** Has `place` work until `signal` is aborted; resolves when all that was begun has ended. */
export async function work(place, { regions, pace, signal }) {
  const { ledger } = place;
  const people = await Promise.all(['ada', 'ben', 'cleo'].map((name) => new Person(place, name).signUp()));
  const [ada, ben, cleo] = people;
  let number = 0;

  /** Does it again and again, `millis` apart; what fails is written down. */
  const loop = async (what, millis, once) => {
    while (!signal.aborted) {
      try {
        await once();
      } catch (error) {
        ledger.fail(`${place.name}, ${what}`, error);
      }
      await nap(millis / pace);
    }
  };

  const reads = () => ada.ask(LISTS[number++ % LISTS.length]);

  const container = async (person, region) => {
    const { createContainer: made } = await person.ask(CREATE, { input: { app: 'hello', region } });
    const client = place.socket(person.token);
    const { id } = made.container;
    const state = (wanted) => (data) => data.containerUpdated.state === wanted;
    const query = `subscription { containerUpdated(id: "${id}") { state failure { reason } } }`;
    await watch(client, query, state('RUNNING'));
    await person.ask('mutation($input: DeleteContainerInput!) { deleteContainer(input: $input) { task { id } } }', { input: { id } });
    await watch(client, query, state('DELETED'));
    await client.dispose();
    ledger.containers += 1;
    ledger.sockets += 1;
  };

  const task = async () => {
    // Every other one is asked to stop, which it will hear of before it has ended.
    const isCancelled = number++ % 2 === 0;
    const input = { steps: isCancelled ? 100 : 4, stepMillis: 50 };
    const { startDemoTask: { task: { id } } } = await ben.ask(DEMO, { input });
    const client = place.socket(ben.token);
    if (isCancelled) await ben.ask(`mutation { cancelTask(input: { id: "${id}" }) { task { id } } }`);
    await watch(client, `subscription { taskUpdated(id: "${id}") { state } }`, (data) =>
      ['SUCCEEDED', 'CANCELLED'].includes(data.taskUpdated.state));
    await client.dispose();
    ledger.tasks += 1;
    ledger.sockets += 1;
  };

  // From many addresses, as people are.
  const login = async () => {
    number += 1;
    const address = `127.${1 + (number % 200)}.${1 + (number % 250)}.1`;
    const input = { email: cleo.email, password: PASSWORD };
    const { logIn } = await place.ask(LOG_IN, { input }, { address });
    const { refreshSession } = await place.ask(REFRESH, { input: { refreshToken: logIn.refreshToken } }, { address });
    await place.ask(LOG_OUT, undefined, { token: refreshSession.accessToken });
  };

  // Each text is one that was never seen: what is kept of texts has to be bounded.
  const mistakes = async () => {
    number += 1;
    const wrong = [
      [JSON.stringify({ query: `{ viewer { name${number} } }` }), 'BAD_USER_INPUT'],
      [JSON.stringify({ query: `query Q${number} { containers(first: ${number % 90 + 1}) { nodes { id } } }` }), 'UNAUTHENTICATED'],
      [JSON.stringify({ extensions: { persistedQuery: { version: 1, sha256Hash: String(number).padStart(64, '0') } } }), 'PERSISTED_QUERY_NOT_FOUND'],
      [JSON.stringify({ query: LOG_IN, variables: { input: { email: `nobody${number}@example.com`, password: PASSWORD } } }), 'UNAUTHENTICATED'],
    ];
    const [body, code] = wrong[number % wrong.length];
    const address = `127.${1 + (number % 250)}.${1 + (number % 240)}.2`;
    const answer = await place.post(body, { address });
    const found = answer.errors?.[0].extensions?.code;
    // A text that is not valid has no code in the standard.
    if (found !== code && !(code === 'BAD_USER_INPUT' && answer.errors)) throw new Error(`${JSON.stringify(answer)} for ${body}`);
  };

  // Sockets that watch all the time, and one in turn that goes and comes back.
  const held = [];
  const open = () => {
    const person = people[held.length % people.length];
    const client = place.socket(() => person.token);
    const query = held.length % 2
      ? 'subscription { containers(first: 10) { nodes { id state } } }'
      : 'subscription { tasks(first: 10) { nodes { id state progress } } }';
    const failed = (error) => { if (!signal.aborted) ledger.fail(`${place.name}, held socket`, error); };
    client.subscribe({ query }, { next: () => {}, error: failed, complete: () => {} });
    ledger.sockets += 1;
    return client;
  };
  for (let count = 0; count < HELD; count += 1) held.push(open());
  const churn = async () => {
    await held.shift().dispose();
    held.push(open());
  };

  await Promise.all([
    loop('reads', 100, reads),
    ...regions.map((region) => loop(`container in ${region}`, 1500, () => container(ada, region))),
    loop('task', 500, task),
    loop('task', 700, task),
    loop('login', 2000, login),
    loop('mistakes', 250, mistakes),
    loop('churn', 300, churn),
    ...people.map((person) => loop('refresh', 120_000 * pace, () => person.refresh())),
  ]);
  await Promise.all(held.map((client) => client.dispose()));
}

export async function logIn(place, email, password) {
  const data = await place.ask(LOG_IN, { input: { email, password } });
  return data.logIn.accessToken;
}
