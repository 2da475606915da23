// Drives the BullMQ workers and prints the figures as one line of JSON.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';

const TASKS = Number(process.env.TASKS ?? 20000);
const IDLE = Number(process.env.IDLE ?? 300);
const IN_FLIGHT = Number(process.env.BULLMQ_IN_FLIGHT ?? 100);
const WORKERS = 2;
const WARM_UP = 4000;
const BULK = 1000;
const DISCARDED = 20;
const STALL_MS = 60_000;

const options = { removeOnComplete: true };
const now = () => performance.timeOrigin + performance.now();

function startWorker() {
  const child = fork(fileURLToPath(new URL('bullmq_worker.js', import.meta.url)), {
    stdio: ['ignore', 2, 2, 'ipc'],
  });
  const state = { child, ready: false, completed: 0, lastAt: 0, starts: new Map() };
  child.on('message', (message) => {
    if (message.kind === 'ready') state.ready = true;
    if (message.kind === 'start') state.starts.set(message.index, message.at);
    if (message.kind === 'completed') {
      state.completed = message.completed;
      state.lastAt = message.at;
    }
  });
  return state;
}

async function stopWorker({ child }) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), 5000);
  await exited;
  clearTimeout(killer);
}

// Waits until `read()` reaches `wanted`, for as long as it makes progress.
async function awaitValue(read, wanted, workers, pauseMs = 5) {
  let seen;
  let deadline = now() + STALL_MS;
  for (let value = read(); value < wanted; value = read()) {
    if (value !== seen) {
      seen = value;
      deadline = now() + STALL_MS;
    }
    if (workers.some(({ child }) => child.exitCode !== null || child.signalCode !== null)) {
      throw new Error('a worker has exited');
    }
    if (now() > deadline) throw new Error(`no progress at ${value} of ${wanted}`);
    await sleep(pauseMs);
  }
}

// One add() per task, several of them awaited at once.
async function addOneByOne(queue, count) {
  let left = count;
  const producer = async () => {
    while (left-- > 0) await queue.add('noop', {}, options);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, producer));
}

async function addInBulk(queue, count) {
  for (let left = count; left > 0; left -= BULK) {
    const jobs = Array.from({ length: Math.min(BULK, left) }, () => ({
      name: 'noop',
      data: {},
      opts: options,
    }));
    await queue.addBulk(jobs);
  }
}

async function runRate(queue, workers, count, add) {
  const completed = () => workers.reduce((sum, worker) => sum + worker.completed, 0);
  const wanted = completed() + count;
  const begin = now();
  await add(queue, count);
  const enqueued = now();
  await awaitValue(completed, wanted, workers);
  const end = Math.max(...workers.map((worker) => worker.lastAt));
  return {
    enqueuedPerS: (1000 * count) / (enqueued - begin),
    completedPerS: (1000 * count) / (end - begin),
  };
}

// The milliseconds from before each enqueue call to the task's start.
async function runIdle(queue, workers) {
  const waits = [];
  for (let index = 0; index < IDLE; index += 1) {
    const started = () => workers.map(({ starts }) => starts.get(index)).find(Boolean);
    const before = now();
    await queue.add('stamp', { index }, options);
    await awaitValue(() => (started() ? 1 : 0), 1, workers, 1);
    waits.push(started() - before);
    await sleep(10);
  }
  return waits.slice(DISCARDED).sort((a, b) => a - b);
}

function percentile(sorted, percent) {
  const at = ((sorted.length - 1) * percent) / 100;
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

function memoryMb(workers) {
  const kilobytes = workers.map(({ child }) =>
    Number(readFileSync(`/proc/${child.pid}/smaps_rollup`, 'utf8').match(/^Pss:\s+(\d+)/m)[1]),
  );
  return kilobytes.reduce((sum, value) => sum + value, 0) / 1024;
}

const round = (value, digits) => Number(value.toFixed(digits));

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: 5 });
await connection.flushdb();
const workers = Array.from({ length: WORKERS }, startWorker);
const queue = new Queue('peer', { connection });
let figures;
try {
  await awaitValue(() => workers.filter(({ ready }) => ready).length, WORKERS, workers);
  await runRate(queue, workers, WARM_UP, addOneByOne);
  const single = await runRate(queue, workers, TASKS, addOneByOne);
  const bulk = await runRate(queue, workers, TASKS, addInBulk);
  await sleep(1000);
  const waits = await runIdle(queue, workers);
  figures = {
    peer: 'bullmq',
    version: createRequire(import.meta.url)('bullmq/package.json').version,
    enqueue_one_by_one_per_s: round(single.enqueuedPerS, 0),
    rate_per_s: round(single.completedPerS, 0),
    bulk_rate_per_s: round(bulk.completedPerS, 0),
    start_p50_ms: round(percentile(waits, 50), 2),
    start_p99_ms: round(percentile(waits, 99), 2),
    memory_mb: round(memoryMb(workers), 1),
  };
} finally {
  await Promise.all(workers.map(stopWorker));
  await connection.flushdb();
  await queue.close();
  connection.disconnect();
}
console.log(JSON.stringify(figures));
