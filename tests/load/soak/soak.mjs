// An hour of work: samples of what every process holds, and what is left when the work has ended.
import { execFile } from 'node:child_process';
import { createServer } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { Ledger, Place, logIn, work } from './load.mjs';
import { held, start } from './processes.mjs';

const MINUTES = Number(process.env.MINUTES);
const PACE = Number(process.env.PACE);
const PASSWORD = 'correct horse battery';
/** Between two samples. */
const SAMPLE_MILLIS = 10_000;
/** How many lines of the table there are. */
const ROWS = 12;
/** Until everything is warm: pools are full, caches have what they may have. A share of the whole. */
const WARM = 0.25;
/** What memory may still grow by, from the third quarter to the last, as a share of it: less than what varies. */
const GROWTH = 0.05;
/** The least that counts: MiB, files, threads or connections. */
const LEAST = 2;

const run = promisify(execFile);
const nap = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

async function sql(text) {
  const { stdout } = await run(process.env.PSQL, ['-XqAt', process.env.DATABASE_URL, '-c', text]);
  return stdout.trim();
}

/** Two web servers, two workers, the process that is all in one. */
async function deploy() {
  const shared = {
    DATABASE_URL: process.env.DATABASE_URL, REDIS_URL: process.env.REDIS_URL, SECRET_KEY: 'k'.repeat(32),
    ADMIN_PASSWORD: PASSWORD, PROVIDER: 'simulated', MACHINE_PROVIDER: 'simulated', TRACE_SAMPLE: '0', LEASE_SECONDS: '10',
  };
  const alone = { REDIS_URL: '', PROVIDER: 'simulated', MACHINE_PROVIDER: 'simulated', ADMIN_PASSWORD: PASSWORD };
  const ports = [await freePort(), await freePort(), await freePort()];
  const processes = [];
  for (const number of [0, 1]) {
    processes.push(await start(`web ${number + 1}`, ['web'], { ...shared, PORT: String(ports[number]) }, /^ {2}queue/));
  }
  for (const number of [1, 2]) processes.push(await start(`worker ${number}`, ['worker'], shared, /^ {2}engine/));
  processes.push(await start('all in one', ['serve'], { ...alone, PORT: String(ports[2]) }, /^ {2}engine/));
  return { ports, processes };
}

/** Makes the Docker Engine a host of a cluster by an agent beside it. */
async function host(place) {
  const token = await logIn(place, 'admin@localhost', PASSWORD);
  const ask = (query) => place.ask(query, undefined, { token });
  const { createCluster } = await ask(
    'mutation { createCluster(input: {name: "real", region: "us-west-1", provider: "docker"}) { cluster { id } } }');
  const { createRegistrationToken } = await ask(
    `mutation { createRegistrationToken(input: {cluster: "${createCluster.cluster.id}"}) { token } }`);
  const settings = { AGENT_TOKEN: createRegistrationToken.token, AGENT_SERVER: `http://127.0.0.1:${place.ports[0]}`,
    DOCKER_HOST: process.env.DOCKER_HOST, AGENT_ENDPOINT: process.env.DOCKER_HOST };
  const agent = await start('agent', ['agent'], settings, /./);
  while (!(await ask('{ hosts { nodes { status } } }')).hosts.nodes.some(({ status }) => status === 'HEALTHY')) await nap(200);
  return agent;
}

async function sample(began, processes, ledgers) {
  const each = {};
  for (const process of processes) {
    if (!process.isRunning()) throw new Error(`${process.name} has ended by itself`);
    each[process.name] = await held(process.pid);
  }
  const redis = (await run('redis-cli', ['-u', process.env.REDIS_URL, 'info'])).stdout;
  const figure = (name) => Number(redis.match(new RegExp(`^${name}:(\\d+)`, 'm'))[1]);
  return {
    minutes: (performance.now() - began) / 60_000,
    each,
    database: Number(await sql("SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")),
    redis: { clients: figure('connected_clients') - 1, memory: figure('used_memory') / 2 ** 20 },
    requests: ledgers.reduce((sum, ledger) => sum + ledger.requests, 0),
    failures: ledgers.reduce((sum, ledger) => sum + ledger.failures.length, 0),
    slowest: ledgers.map((ledger) => ledger.slowest()),
  };
}

function table(samples, names) {
  const pad = (texts, widths) => texts.map((text, index) => String(text).padStart(widths[index])).join(' ');
  const widths = [6, ...names.map(() => 18), 9, 12, 9, 8, 7];
  const lines = [pad(['min', ...names, 'database', 'Redis', 'requests', 'p99 ms', 'failed'], widths),
    pad(['', ...names.map(() => 'MiB files threads'), 'conn.', 'conn. MiB', '', '', ''], widths)];
  const step = Math.max(1, Math.floor(samples.length / ROWS));
  for (let index = 0; index < samples.length; index += step) {
    const { minutes, each, database, redis, requests, slowest, failures } = samples[index];
    const held = names.map((name) => `${each[name].memory.toFixed(1)} ${each[name].files} ${each[name].threads}`);
    lines.push(pad([minutes.toFixed(1), ...held, database, `${redis.clients} ${redis.memory.toFixed(1)}`, requests,
      slowest.map((millis) => millis.toFixed(0)).join('/'), failures], widths));
  }
  return lines.join('\n');
}

/** The mean of a figure in a span of the samples, its ends as shares of the whole. */
function between(samples, from, to, figure) {
  return mean(samples.slice(Math.floor(samples.length * from), Math.ceil(samples.length * to)).map(figure));
}

/**
 * What has grown from one part of the run to the next, and is still there when the work has ended: while there is work a
 * process holds what is under way, as 19 MiB for each password it checks.
 */
function growth(samples, afterwards, names) {
  const figures = [
    ...names.map((name) => [`${name}, MiB`, (one) => one.each[name].memory]),
    ...names.map((name) => [`${name}, files`, (one) => one.each[name].files]),
    ...names.map((name) => [`${name}, threads`, (one) => one.each[name].threads]),
    ['database, connections', (one) => one.database],
    ['Redis, connections', (one) => one.redis.clients],
    ['Redis, MiB', (one) => one.redis.memory],
  ];
  return figures.map(([what, figure]) => {
    const quarters = [[WARM, 0.5], [0.5, 0.75], [0.75, 1]].map(([from, to]) => between(samples, from, to, figure));
    // What has reached its ceiling stays there; what leaks goes on.
    const second = samples.slice(Math.floor(samples.length * WARM), Math.ceil(samples.length / 2));
    const least = Math.min(...second.map(figure));
    const grew = quarters[2] / quarters[1] - 1;
    const isMore = quarters[2] - quarters[1] > LEAST;
    const isLeft = figure(afterwards) - least > LEAST && figure(afterwards) / least - 1 > GROWTH;
    return { what, figure, quarters, grew, isKept: grew > GROWTH && isMore && isLeft };
  });
}

async function main() {
  const { ports, processes } = await deploy();
  const stop = new AbortController();
  process.on('SIGTERM', () => process.exit(143));
  process.on('exit', () => {
    for (const { pid, isRunning } of processes) if (isRunning()) process.kill(pid, 'SIGKILL');
  });
  const ledgers = [new Ledger(), new Ledger()];
  const scaled = new Place('scaled out', ports.slice(0, 2), ledgers[0]);
  const alone = new Place('all in one', ports.slice(2), ledgers[1]);
  processes.push(await host(scaled));
  const names = processes.map(({ name }) => name);
  const idle = await sample(performance.now(), processes, ledgers);
  const working = Promise.all([
    work(scaled, { regions: ['us-west-1', 'us-west-1'], pace: PACE, signal: stop.signal }),
    work(alone, { regions: ['us-east-1'], pace: PACE / 2, signal: stop.signal }),
  ]);
  const began = performance.now();
  const samples = [];
  const until = began + MINUTES * 60_000;
  while (performance.now() < until) {
    await Promise.race([nap(SAMPLE_MILLIS), working]);
    samples.push(await sample(began, processes, ledgers));
    await writeFile(`${process.env.RUN}/samples.json`, JSON.stringify(samples));
    const due = Math.max(1, Math.floor((MINUTES * 60_000) / SAMPLE_MILLIS / ROWS));
    if (samples.length % due === 0) console.log(table(samples.slice(-1), names).split('\n').at(-1));
  }
  stop.abort();
  await working;
  const failures = ledgers.flatMap((ledger) => ledger.failures);
  // Whoever has gone has taken what was theirs along.
  await nap(15_000);
  const afterwards = await sample(began, processes, ledgers);
  const unfinished = Number(await sql("SELECT COUNT(*) FROM task WHERE state IN ('queued', 'running', 'waiting') AND kind IN ('create_container', 'delete_container', 'demo')"));
  const left = (await run('docker', ['ps', '-aq'])).stdout.split('\n').filter(Boolean).length;

  console.log(`\n${table(samples, names)}\n`);
  const heads = ['2nd quarter', '3rd', '4th', '4th/3rd', 'idle before', 'idle after'];
  console.log('mean of'.padEnd(26) + heads.map((head) => head.padStart(13)).join(''));
  const grown = growth(samples, afterwards, names);
  for (const { what, figure, quarters, grew } of grown) {
    const cells = [...quarters.map((number) => number.toFixed(1)), (1 + grew).toFixed(3), figure(idle).toFixed(1), figure(afterwards).toFixed(1)];
    console.log(what.padEnd(26) + cells.map((cell) => cell.padStart(13)).join(''));
  }
  const sum = (name) => ledgers.reduce((total, ledger) => total + ledger[name], 0);
  console.log(`\n${sum('requests')} requests, ${sum('sockets')} sockets, ${sum('containers')} containers and ${sum('tasks')} tasks to their end; ` +
    `${failures.length} failed, ${unfinished} tasks unfinished, ${left} containers left on the engine`);
  for (const failure of failures.slice(0, 20)) console.log(failure);
  for (const process of processes.reverse()) await process.stop();
  const faults = [
    ...grown.filter(({ isKept }) => isKept).map(({ what, grew }) => `${what} grew by ${(grew * 100).toFixed(1)} %`),
    ...(failures.length ? ['something failed'] : []),
    ...(unfinished || left ? ['something was left'] : []),
  ];
  console.log(faults.length ? `NOT FLAT OR NOT WHOLE: ${faults.join('; ')}` : 'flat, and nothing lost');
  process.exitCode = faults.length ? 1 : 0;
}

await main();
