import { writeFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { Lab } from '../../cli/lab/lab.js';
import { suite } from '../suite.js';
import { downAll, homeproxy, labName } from './lab-fixture.js';
import { leftovers, namespacesOf } from './leftovers.js';

const test = suite('the daemons of a lab');
let lab: Lab;

async function daemonOf(node: string): Promise<{ pid: number; running: boolean } | null | undefined> {
  return (await Lab.status(lab.name)).nodes.find(({ name }) => name === node)?.daemon;
}

async function daemonCommand(node: string, action: string): Promise<Record<string, unknown>> {
  const { stdout } = await homeproxy(['lab', 'daemon', '--lab', lab.name, node, action, '--json']);
  return JSON.parse(stdout) as Record<string, unknown>;
}

test.before(async () => {
  lab = await Lab.up({ name: labName('daemons'), hosts: 1 });
});
test.after(downAll);

test('serve when up returns, one per node but the client', async () => {
  assert.is(await daemonOf('client'), null);
  for (const name of ['home', 'host1']) {
    assert.is((await daemonOf(name))?.running, true);
    const { stdout } = await lab.node(name).run(['homeproxy', 'status', '--json']);
    assert.is((JSON.parse(stdout) as { node: string }).node, name);
  }
});

test('reach and trust each other', async () => {
  for (const name of ['home', 'host1']) {
    const { stdout } = await lab.node(name).run(['homeproxy', 'hosts', '--json']);
    const { hosts } = JSON.parse(stdout) as { hosts: { name: string; reachable: boolean }[] };
    assert.equal(
      hosts.map((host) => [host.name, host.reachable]),
      [
        ['home', true],
        ['host1', true],
      ],
      `seen from ${name}`,
    );
  }
});

test('stop, die and start on request, and start has waited until they serve', async () => {
  const first = await daemonOf('home');
  assert.equal(await daemonCommand('home', 'stop'), { node: 'home', pid: null });
  assert.is(await daemonOf('home'), null);
  const { pid } = await daemonCommand('home', 'start');
  assert.equal(await daemonOf('home'), { pid, running: true });
  assert.is.not(pid, first?.pid);
  await lab.node('home').run(['homeproxy', 'status']);
  await lab.stopDaemon('home', 'SIGKILL');
  const again = await lab.startDaemon('home');
  assert.is(await lab.startDaemon('home'), again, 'a running daemon was started again');
});

test('are started again by up when they have died', async () => {
  const before = await daemonOf('host1');
  process.kill(before?.pid ?? 0, 'SIGKILL');
  while ((await daemonOf('host1'))?.running === true);
  await Lab.up({ name: lab.name, hosts: 1 });
  const after = await daemonOf('host1');
  assert.is(after?.running, true);
  assert.is.not(after?.pid, before?.pid);
});

test('show the end of their log when they do not start', async () => {
  await lab.stopDaemon('home');
  writeFileSync(lab.node('home').path('/etc/homeproxy/homeproxy.yaml'), 'node: [nobody]\n');
  const { error } = (await daemonCommand('home', 'start')) as {
    error: { code: string; exitStatus: number; log: string[] };
  };
  assert.is(error.code, 'LAB_DAEMON');
  assert.is(error.exitStatus, 5);
  assert.match(error.log.join('\n'), /homeproxy\.yaml:1:/, DAEMON_LOG);
});

test('do not run on the client', async () => {
  const { error } = (await daemonCommand('client', 'start')) as { error: { code: string } };
  assert.is(error.code, 'LAB_NO_DAEMON');
});

test('are gone after down, with what they had attached', async () => {
  const namespaces = lab.nodes.flatMap(({ initPid }) => namespacesOf(initPid));
  await Lab.down(lab.name);
  assert.equal(leftovers(lab.name, namespaces, true), []);
});

test.run();
