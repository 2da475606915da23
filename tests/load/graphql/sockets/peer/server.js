// graphql-ws on ws: each line of the standard input is an event that every subscriber gets.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { buildSchema } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';
import { WebSocketServer } from 'ws';

const schema = buildSchema(`
  type Query { nothing: Int }
  type Task { id: ID!, state: String!, version: Int!, progress: Int!, progressMessage: String }
  type Subscription { taskUpdated(id: ID!): Task! }
`);

let newest = { id: 'the one', state: 'QUEUED', version: 0, progress: 0, progressMessage: '' };
let told = Promise.withResolvers ? Promise.withResolvers() : withResolvers();

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => { made.resolve = resolve; });
  return made;
}

schema.getSubscriptionType().getFields().taskUpdated.subscribe = async function* () {
  for (;;) {
    const next = told.promise;
    yield { taskUpdated: newest };
    await next;
  }
};

createInterface({ input: process.stdin }).on('line', (line) => {
  newest = JSON.parse(line).payload.data.taskUpdated;
  const before = told;
  told = withResolvers();
  before.resolve();
});

const http = createServer();
const sockets = new WebSocketServer({ server: http, path: '/graphql', perMessageDeflate: false });
useServer({ schema }, sockets);
http.listen(0, '127.0.0.1', 4096, () => console.log(`endpoint http://127.0.0.1:${http.address().port}/`));
