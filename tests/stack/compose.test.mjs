// The compose stack from a clean clone, on an engine of its own: up, used, killed part by part, used again, and gone.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { Person, SOCKET, SOCKET_GROUP, compose, configure, docker, freePort, health, run, until } from './engine.mjs';

const FULL = process.env.STACK === 'full';
const name = (service) => `main-webserver-${service}-1`;
const started = Date.now();
const seconds = () => ((Date.now() - started) / 1000).toFixed(1);
const say = (line) => process.stderr.write(`     stack: ${line}\n`);
let web, admin, ada, settings;

test('the stack is built and comes up healthy', async () => {
  const port = await freePort();
  settings = configure({
    WEB_PORT: port,
    REDIS_PORT: await freePort(),
    DOCKER_SOCKET: SOCKET,
    DOCKER_GID: SOCKET_GROUP,
    ADMIN_PASSWORD: createHash('sha256').update(String(port)).digest('hex'),
    ...(FULL ? {} : { BINARY: process.env.BINARY }),
  });
  await compose(['build']);
  say(`built after ${seconds()} s`);
  await compose(['up', '--detach', '--wait', '--wait-timeout', '300']);
  say(`healthy after ${seconds()} s`);
  web = new Person(`http://127.0.0.1:${port}`);
  assert.equal((await fetch(`${web.base}/readyz`)).status, 200);
});

test('the image has the binary, an ordinary user, and no shell', async () => {
  const image = JSON.parse(await docker('inspect', 'main-webserver'))[0].Config;
  assert.equal(image.User, '10001:10001');
  for (const label of ['title', 'version', 'revision', 'licenses']) assert.ok(image.Labels[`org.opencontainers.image.${label}`], label);
  for (const shell of ['sh', 'bash', '/bin/sh']) {
    await assert.rejects(docker('run', '--rm', '--entrypoint', shell, 'main-webserver', '-c', 'true'), /not found|no such file/);
  }
  for (const program of ['pg_dump', 'pg_restore']) {
    assert.match(await docker('run', '--rm', '--network', 'none', '--entrypoint', program, 'main-webserver', '--version'), /PostgreSQL/);
  }
});

test('somebody signs up, and gets a container of the real engine', async () => {
  ada = await web.signUp();
  const container = await ada.container();
  say(`a container runs after ${seconds()} s`);
  assert.equal(container.state, 'RUNNING');
  assert.equal(container.provider, 'docker');
  assert.equal(await docker('inspect', '--format', '{{.State.Running}}', `main-${container.id}`), 'true');
});

test('an agent makes this machine a host of a cluster', async () => {
  admin = await web.logIn('admin@localhost', settings.ADMIN_PASSWORD);
  const { createCluster } = await admin.ask(
    `mutation { createCluster(input: {name: "here", region: "us-west-1", provider: "docker"}) { cluster { id } } }`);
  const { createRegistrationToken } = await admin.ask(
    `mutation { createRegistrationToken(input: {cluster: "${createCluster.cluster.id}"}) { token } }`);
  await compose(['--profile', 'agent', 'up', '--detach', 'agent'], { AGENT_TOKEN: createRegistrationToken.token });
  const healthy = async () => (await admin.ask('{ hosts { nodes { status } } }')).hosts.nodes.some(({ status }) => status === 'HEALTHY');
  await until('a healthy host', healthy);
  // It has a credential of its own: nothing that the service's other processes have.
  const environment = await docker('inspect', '--format', '{{range .Config.Env}}{{println .}}{{end}}', name('agent'));
  for (const secret of [settings.SECRET_KEY, settings.POSTGRES_PASSWORD, settings.ADMIN_PASSWORD]) assert.ok(!environment.includes(secret));
  await until('the host, with its agent killed and started again', async () => {
    const before = await docker('inspect', '--format', '{{.State.Pid}}', name('agent'));
    if (before !== '0') process.kill(Number(before), 'SIGKILL');
    return until('another agent', async () => ![before, '0'].includes(await docker('inspect', '--format', '{{.State.Pid}}', name('agent'))));
  });
  await until('a healthy host again', healthy);
  await compose(['--profile', 'agent', 'rm', '--stop', '--force', 'agent']);
});

for (const service of ['web', 'worker', 'redis', 'postgres']) {
  test(`a killed ${service} is started again, and the stack works as before`, async () => {
    const pid = Number(await docker('inspect', '--format', '{{.State.Pid}}', name(service)));
    const began = Date.now();
    process.kill(pid, 'SIGKILL');
    await until('another process', async () => ![pid, 0].includes(Number(await docker('inspect', '--format', '{{.State.Pid}}', name(service)))));
    await until('health', async () => (await health(name(service))) === 'healthy');
    // What was there is there still, and something new can be made.
    const known = await until('the account', async () => (await ada.ask('{ viewer { role } }')).viewer);
    assert.equal(known.role, 'USER');
    assert.equal((await ada.container()).state, 'RUNNING');
    say(`${service} killed: a new container runs ${((Date.now() - began) / 1000).toFixed(1)} s later`);
  });
}

test('a platform that gives four settings and a user of its own can run the same image', async () => {
  const url = (user, password, host, rest) => `${user}://${password}${host}${rest}`;
  const given = {
    PORT: '5000',
    DATABASE_URL: url('postgres', `main:${settings.POSTGRES_PASSWORD}@`, 'postgres:5432', '/main'),
    REDIS_URL: 'redis://redis:6379/0',
    SECRET_KEY: settings.SECRET_KEY,
  };
  const as = ['--network', 'main-webserver_default', '--user', '54321', '--read-only', '--cap-drop', 'ALL',
    ...Object.entries(given).flatMap(([key, value]) => ['--env', `${key}=${value}`])];
  const port = await freePort();
  // The release phase, then the processes.
  assert.match(await docker('run', '--rm', ...as, 'main-webserver', 'migrate', 'up'), /applied/);
  await docker('run', '--detach', '--name', 'platform-web', '--publish', `127.0.0.1:${port}:5000`, ...as, 'main-webserver', 'web');
  await docker('run', '--detach', '--name', 'platform-worker', ...as, 'main-webserver', 'worker');
  const there = new Person(`http://127.0.0.1:${port}`, ada.token);
  await until('readiness', async () => (await fetch(`${there.base}/readyz`)).ok);
  assert.equal((await there.ask('{ viewer { name } }')).viewer.name, 'Ada');
  // It stops in order when it is asked to, and says so by its exit.
  await docker('stop', '--time', '60', 'platform-web', 'platform-worker');
  for (const container of ['platform-web', 'platform-worker']) {
    assert.equal(await docker('inspect', '--format', '{{.State.ExitCode}}', container), '0');
    await docker('rm', container);
  }
});

test('the worker removes what it made, and the stack goes without a trace', async () => {
  const { containers } = await admin.ask('{ containers(filter: {state: {eq: RUNNING}}, first: 100) { nodes { id } } }');
  for (const { id } of containers.nodes) {
    await admin.ask('mutation($id: ID!) { deleteContainer(input: {id: $id}) { container { id } } }', { id });
  }
  await until('no container of ours', async () => (await docker('ps', '--all', '--quiet', '--filter', 'name=main-container_')) === '');
  const stopping = Date.now();
  await compose(['stop', 'web', 'worker']);
  for (const service of ['web', 'worker']) {
    assert.equal(await docker('inspect', '--format', '{{.State.ExitCode}}', name(service)), '0', service);
  }
  say(`web and worker stopped in ${((Date.now() - stopping) / 1000).toFixed(1)} s`);
  // With the profile, whose volume would stay otherwise.
  await compose(['--profile', 'agent', 'down', '--volumes', '--timeout', '30']);
  assert.equal(await docker('ps', '--all', '--quiet'), '');
  assert.equal(await docker('volume', 'ls', '--quiet', '--filter', 'name=main-webserver'), '');
  say(`gone after ${seconds()} s`);
});

test('without its secrets the stack says which is missing', async () => {
  configure({ SECRET_KEY: '' });
  await assert.rejects(compose(['config', '--quiet']), /SECRET_KEY.*set it in docker\/\.env/s);
  configure({ POSTGRES_PASSWORD: '' });
  await assert.rejects(compose(['config', '--quiet']), /POSTGRES_PASSWORD.*set it in docker\/\.env/s);
});
