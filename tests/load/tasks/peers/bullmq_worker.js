// One BullMQ worker process. It reports to its parent over the process channel,
// so a report costs the worker no Redis command.

import { performance } from 'node:perf_hooks';
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';

const REPORT_EVERY_MS = 10;

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });

const worker = new Worker(
  'peer',
  async (job) => {
    if (job.name === 'stamp') {
      const at = performance.timeOrigin + performance.now();
      process.send({ kind: 'start', index: job.data.index, at });
    }
  },
  { connection, concurrency: Number(process.env.BULLMQ_CONCURRENCY ?? 200) },
);

let completed = 0;
let reported = 0;
let lastAt = 0;

worker.on('completed', () => {
  completed += 1;
  lastAt = performance.timeOrigin + performance.now();
});
worker.on('error', (error) => console.error(error));

setInterval(() => {
  if (completed !== reported) {
    reported = completed;
    process.send({ kind: 'completed', completed, at: lastAt });
  }
}, REPORT_EVERY_MS);

process.on('disconnect', () => process.exit());
process.on('SIGTERM', () => process.exit());

await worker.waitUntilReady();
process.send({ kind: 'ready' });
