// A server for one test alone, for what others would disturb: its meters, and its end.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { within } from './service.mjs';

const SETTINGS = { PROVIDER: 'simulated', ADMIN_PASSWORD: process.env.PASSWORD, LOG: 'warn', DRAIN_SECONDS: '0' };

async function start(cwd, port) {
  const env = { ...process.env, ...SETTINGS, PORT: String(port) };
  const child = spawn(process.env.BINARY, [], { cwd, env, stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const base = async () => {
    let found;
    for await (const line of createInterface({ input: child.stdout })) {
      found ??= line.match(/^ {2}endpoint +(http:\S+)\/graphql/)?.[1];
      if (/^ {2}engine/.test(line)) return found;
    }
    return assert.fail('the server did not start');
  };
  const address = await within(base(), 'the server').catch((error) => {
    child.kill('SIGKILL');
    throw error;
  });
  child.stdout.resume();
  return { address, stop: (signal) => { child.kill(signal); return exited; } };
}

/** Starts it on an empty database; it ends with the test `t`. */
export async function ownServer(t) {
  const folder = await mkdtemp(join(tmpdir(), 'main-webserver-'));
  let running = await start(folder, 0);
  const base = running.address;
  t.after(async () => {
    await running.stop('SIGKILL');
    await rm(folder, { recursive: true });
  });
  return {
    endpoint: `${base}/graphql`,
    /** The value of a meter without labels. */
    async meter(name) {
      const text = await (await fetch(`${base}/metrics`)).text();
      const value = text.match(new RegExp(`^main_webserver_${name} (\\d+)$`, 'm'))?.[1];
      assert.ok(value, `no ${name} in\n${text}`);
      return Number(value);
    },
    /** Ends it as a deployment does, and starts it again on the same data and the same port. */
    async restart() {
      await within(running.stop('SIGTERM'), 'the end of the server');
      running = await start(folder, new URL(base).port);
    },
  };
}
