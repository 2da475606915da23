// The Swarm stack: deployed, rolled to another version under load, rolled back by itself and by hand.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { CLONE, Person, SOCKET, SOCKET_GROUP, docker, load, run, until } from './engine.mjs';

const say = (line) => process.stderr.write(`     swarm: ${line}\n`);
let ada;

/** Another version: the same binary in an image that differs. */
async function version(name, change) {
  const dockerfile = join(CLONE, `${name}.Dockerfile`);
  writeFileSync(dockerfile, `FROM main-webserver\nLABEL org.opencontainers.image.version="${name}"\n${change ?? ''}\n`);
  await run('docker', ['build', '--quiet', '--file', dockerfile, '--tag', `main-webserver:${name}`, 'docker/heroku'], { DOCKER_BUILDKIT: '0' });
}

async function deploy(name) {
  await run('docker', ['stack', 'deploy', '--resolve-image', 'never', '--prune', '-c', 'docker/stack.test.yml', 'main-webserver'],
    { IMAGE: `main-webserver:${name}`, DOCKER_SOCKET: SOCKET, DOCKER_GID: SOCKET_GROUP, WEB_CPUS: '0', WORKER_CPUS: '0' });
}

const images = async (service) => {
  const rows = await docker('service', 'ps', `main-webserver_${service}`, '--filter', 'desired-state=running', '--format', '{{.Image}} {{.CurrentState}}');
  return rows.split('\n').filter((row) => / Running /.test(row)).map((row) => row.split(' ')[0]);
};
const all = (name) => async () => {
  const found = await Promise.all(['web', 'worker'].map(images));
  return found.every((one) => one.length === 2 && one.every((image) => image === `main-webserver:${name}`));
};
const updated = (service) => docker('service', 'inspect', '--format', '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}', `main-webserver_${service}`);

/** Where the gateway bridge has each healthy web process. */
async function addresses() {
  const bridge = JSON.parse(await docker('network', 'inspect', 'docker_gwbridge'))[0].Containers;
  const ids = (await docker('ps', '--no-trunc', '--quiet', '--filter', 'label=com.docker.swarm.service.name=main-webserver_web')).split('\n');
  return ids.filter((id) => bridge[id]).map((id) => bridge[id].IPv4Address.split('/')[0]);
}

/** A balancer as there are many: it asks everyone for readiness twice a second and sends to those that are ready. */
function balancer() {
  let ready = [], turn = 0, goes = true;
  const looking = (async () => {
    while (goes) {
      const found = await addresses().catch(() => []);
      const asked = await Promise.all(found.map((address) =>
        fetch(`http://${address}:7730/readyz`, { signal: AbortSignal.timeout(2000) }).then((answer) => answer.ok, () => false)));
      ready = found.filter((_, at) => asked[at]);
      await new Promise((later) => setTimeout(later, 500));
    }
  })();
  return {
    base: () => `http://${ready[turn++ % ready.length]}:7730`,
    isReady: () => ready.length > 0,
    end: () => ((goes = false), looking),
  };
}

test('the stack is deployed with its secrets as files', async () => {
  await docker('swarm', 'init', '--advertise-addr', '127.0.0.1', '--default-addr-pool', '10.83.0.0/16');
  for (const name of ['secret-key', 'postgres-password']) {
    const file = join(CLONE, name);
    writeFileSync(file, randomBytes(32).toString('hex'), { mode: 0o600 });
    await docker('secret', 'create', `main-webserver-${name}`, file);
  }
  // Where the kernel has no balancer (IPVS), the processes are asked by their own addresses.
  const stack = readFileSync(join(CLONE, 'docker/stack.yml'), 'utf8');
  const direct = stack
    .replace(/^    ports:\n      - .*7730"\n/m, '')
    .replace('      replicas: ${WEB_REPLICAS:-2}\n', '$&      endpoint_mode: dnsrr\n');
  assert.equal(direct.split('\n').length, stack.split('\n').length - 1);
  writeFileSync(join(CLONE, 'docker/stack.test.yml'), direct);
  await version('one');
  await version('two');
  await version('broken', 'ENTRYPOINT ["main-webserver", "--set", "PORT=none"]');
  const began = Date.now();
  await deploy('one');
  await until('two webs and two workers', all('one'), 180);
  say(`deployed and healthy in ${((Date.now() - began) / 1000).toFixed(1)} s`);
  const environment = await docker('service', 'inspect', '--format', '{{.Spec.TaskTemplate.ContainerSpec.Env}}', 'main-webserver_web');
  assert.ok(!environment.includes(readFileSync(join(CLONE, 'secret-key'), 'utf8')));
});

for (const [what, name, how] of [
  ['another version replaces the first without a failed request', 'two', () => deploy('two')],
  ['and the first comes back the same way', 'one', () => deploy('one')],
]) {
  test(what, async () => {
    const front = balancer();
    await until('a ready process', front.isReady);
    ada ??= await new Person(front.base()).signUp();
    const { counts, end } = load(async () => {
      ada.base = front.base();
      const { viewer } = await ada.ask('{ viewer { name } }');
      assert.equal(viewer.name, 'Ada');
    });
    const began = Date.now();
    await how();
    await until(`everything on ${name}`, async () => (await all(name)()) && (await updated('web')) === 'completed' && (await updated('worker')) === 'completed', 300);
    const took = ((Date.now() - began) / 1000).toFixed(1);
    await end();
    await front.end();
    say(`to ${name}: ${took} s, ${counts.asked} requests, ${counts.failed} failed`);
    assert.ok(counts.asked > 100, 'there was a load');
    assert.deepEqual(counts.errors, []);
  });
}

test('a version that does not start is taken back by itself, and the one before never stops', async () => {
  const front = balancer();
  await until('a ready process', front.isReady);
  const { counts, end } = load(async () => {
    ada.base = front.base();
    await ada.ask('{ viewer { name } }');
  });
  await deploy('broken');
  await until('the roll-back', async () => (await updated('web')) === 'rollback_completed' && (await updated('worker')) === 'rollback_completed', 300);
  await until('everything on one', all('one'));
  await end();
  await front.end();
  say(`broken: ${counts.asked} requests, ${counts.failed} failed`);
  assert.deepEqual(counts.errors, []);
});

test('the stack goes without a trace', async () => {
  await docker('stack', 'rm', 'main-webserver');
  await until('no container', async () => (await docker('ps', '--quiet')) === '', 90);
  for (const name of ['secret-key', 'postgres-password']) await docker('secret', 'rm', `main-webserver-${name}`);
  await until('the volume to be free', () => docker('volume', 'rm', '--force', 'main-webserver_postgres').then(() => true), 30);
  await docker('swarm', 'leave', '--force');
});
