// Processes: started, watched, ended, and what they hold.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** Starts the binary and waits for a line that matches `ready`; what the line's first group is, is its `said`. */
export async function start(name, args, settings, ready) {
  const cwd = join(process.env.RUN, name.replaceAll(' ', '-'));
  await mkdir(cwd, { recursive: true });
  const env = { PATH: process.env.PATH, LOG: 'warn', ...settings };
  const child = spawn(process.env.BINARY, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const log = createWriteStream(join(cwd, 'log'));
  child.stderr.pipe(log, { end: false });
  const exited = once(child, 'exit');
  const said = await new Promise((resolve, reject) => {
    const found = [];
    createInterface({ input: child.stdout }).on('line', (line) => {
      log.write(`${line}\n`);
      found.push(line);
      if (ready.test(line)) resolve(found.join('\n'));
    });
    exited.then(([code]) => reject(new Error(`${name} ended with ${code}; see ${cwd}/log\n${found.join('\n')}`)));
  });
  return {
    name,
    pid: child.pid,
    said,
    isRunning: () => child.exitCode === null && child.signalCode === null,
    async stop() {
      child.kill('SIGTERM');
      const [code, signal] = await exited;
      if (code !== 0) throw new Error(`${name} ended with ${code ?? signal}`);
    },
  };
}

/** What a process holds: MiB of memory that is its own, open files, threads. */
export async function held(pid) {
  const [smaps, status, files] = await Promise.all([
    readFile(`/proc/${pid}/smaps_rollup`, 'utf8'),
    readFile(`/proc/${pid}/status`, 'utf8'),
    readdir(`/proc/${pid}/fd`),
  ]);
  const kilobytes = (name) => Number(smaps.match(new RegExp(`^${name}: +(\\d+) kB`, 'm'))[1]);
  return {
    memory: (kilobytes('Private_Dirty') + kilobytes('Private_Clean')) / 1024,
    files: files.length,
    threads: Number(status.match(/^Threads:\s+(\d+)/m)[1]),
  };
}
