// limit: 180 s
/** Who may do what: users of a machine, and the nodes among themselves, while the daemons run. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { LabFiles } from '../../cli/lab/state.js';
import { readsEveryLimit } from '../../cli/process/task-verdicts.js';
import { suite } from '../suite.js';
import { startServer } from './c-program.js';
import { bareLab, downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { NodeCommand, type Outcome } from './node-command.js';
import { setSection } from './node-settings.js';
import { describe, errorOf, Scenario } from './scenario.js';
import { askTicker, installTicker, TICKER } from './ticker.js';

const AUTHORITY = '/etc/homeproxy/ca';
const MEMBER = { uid: 65531, gid: 65532 };
const STRANGER = { uid: 65530, gid: 65530 };
const PORT = 7301;

const test = suite('who is trusted with what');
let scenario: Scenario;

test.before(async () => {
  const lab = await bareLab('trust', { hosts: 2 });
  for (const { name, role } of lab.nodes) {
    if (role !== 'client') setSection(lab, name, 'control', { group: String(MEMBER.gid) });
  }
  setSection(lab, 'host2', 'guests', { accept: [{ from: ['home'], users: [MEMBER.uid] }] });
  setSection(lab, 'host2', 'control', { drainFrom: ['host1'] });
  const files = new LabFiles(lab.name);
  mkdirSync(lab.node('home').path(AUTHORITY), { mode: 0o700 });
  copyFileSync(files.authorityCertificate, lab.node('home').path(`${AUTHORITY}/ca.pem`));
  copyFileSync(files.authorityKey, lab.node('home').path(`${AUTHORITY}/ca.key`));
  scenario = await Scenario.start('trust', { hosts: 2 });
});
test.after(downAll);

function as({ uid, gid }: typeof MEMBER, ...command: string[]): string[] {
  return ['setpriv', '--reuid', String(uid), '--regid', String(gid), '--clear-groups', 'env', 'HOME=/', ...command];
}

async function homeproxy(...args: string[]): Promise<Outcome> {
  return await new NodeCommand(scenario.home, ['homeproxy', ...args, '--json']).ended;
}

async function homeproxyAs(user: typeof MEMBER, ...args: string[]): Promise<Outcome> {
  return await new NodeCommand(scenario.home, as(user, 'homeproxy', ...args, '--json')).ended;
}

/** Waits until a daemon has taken up what has changed: it says so. */
async function renewed(node: string, times: number): Promise<void> {
  const log = scenario.lab.node(node).path(DAEMON_LOG);
  for (const deadline = Date.now() + 30_000; ; await sleep(50)) {
    if (readFileSync(log, 'utf8').split('"new credentials"').length > times) return;
    if (Date.now() > deadline)
      throw new Error(`${node} has not taken up new credentials:\n${readFileSync(log, 'utf8')}`);
  }
}

test('a member of the group moves a process of its own, if this machine lets CRIU read its limits', async () => {
  const { home, client, lab } = scenario;
  await installTicker(home, lab.node('host1'), lab.node('host2'));
  const pid = await startServer(home, as(MEMBER, TICKER, String(PORT)), PORT);
  const conversation = await LineClient.connect(client, home.address, PORT);
  assert.is((await homeproxyAs(MEMBER, 'ps')).status, 0);
  if (!readsEveryLimit()) {
    const refused = errorOf(await homeproxyAs(MEMBER, 'migrate', String(pid), 'host1'));
    assert.is(refused.code, 'REFUSED');
    assert.match(refused.message, '(LIMITS_UNREADABLE)');
    return;
  }
  for (const args of [
    ['migrate', String(pid), 'host1'],
    ['recall', String(pid)],
  ]) {
    const outcome = await homeproxyAs(MEMBER, ...args);
    assert.is(outcome.status, 0, describe(outcome));
    assert.ok((await askTicker(conversation)).awakenings > 0);
  }
});

test("somebody else's process, and what is about the machine, is not for a member", async () => {
  const pid = await startServer(scenario.home, [TICKER, String(PORT + 1)], PORT + 1);
  for (const args of [
    ['migrate', String(pid), 'host1'],
    ['check', String(pid)],
    ['check', String(pid), 'host1'],
  ]) {
    const outcome = await homeproxyAs(MEMBER, ...args);
    assert.equal([errorOf(outcome).code, outcome.status], ['NOT_YOURS', 3], args.join(' '));
  }
  for (const args of [['down'], ['drain'], ['journal'], ['recover']]) {
    const outcome = await homeproxyAs(MEMBER, ...args);
    assert.equal([errorOf(outcome).code, outcome.status], ['NOT_PERMITTED', 7], args.join(' '));
  }
  await scenario.migrate(pid, 'host1');
  const away = await homeproxyAs(MEMBER, 'recall', String(pid));
  assert.is(errorOf(away).code, 'NOT_YOURS', 'away, it is not hers either');
  await scenario.recall(pid);
});

test('a host takes only the processes that its own configuration lets in, and says so before anything freezes', async () => {
  const pid = await startServer(scenario.home, [TICKER, String(PORT + 3)], PORT + 3);
  const checked = await homeproxy('check', String(pid), 'host2');
  assert.match(checked.stdout, 'GUEST_REFUSED');
  const refused = errorOf(await homeproxy('migrate', String(pid), 'host2'));
  assert.is(refused.code, 'REFUSED');
  assert.match(refused.message, 'host2 takes no processes of user 0 from home (GUEST_REFUSED)');
  await scenario.migrate(pid, 'host1');
  assert.match(errorOf(await homeproxy('migrate', String(pid), 'host2')).message, 'GUEST_REFUSED');
  await scenario.recall(pid);
});

test('a host is emptied and opened only from the nodes that its own configuration names, and by itself', async () => {
  for (const verb of ['drain', 'undrain']) {
    const refused = errorOf(await homeproxy(verb, 'host2'));
    assert.is(refused.code, 'NOT_YOURS', refused.message);
    assert.match(refused.remedy ?? '', 'control.drainFrom');
  }
  for (const node of ['host1', 'host2']) {
    for (const verb of ['drain', 'undrain']) {
      const outcome = await new NodeCommand(scenario.lab.node(node), ['homeproxy', verb, 'host2', '--json']).ended;
      assert.is(outcome.status, 0, describe(outcome));
      const row = (await scenario.hosts('home')).find(({ name }) => name === 'host2');
      assert.is(row?.draining, verb === 'drain', `${verb} on ${node}`);
    }
  }
});

test('who is not in the group does not reach the daemon', async () => {
  const outcome = await homeproxyAs(STRANGER, 'ps');
  assert.equal([errorOf(outcome).code, outcome.status], ['NOT_PERMITTED', 7]);
});

test('a machine without an identity becomes a node by an invitation', async () => {
  const { home, lab } = scenario;
  const host = lab.node('host1');
  await lab.stopDaemon('host1');
  for (const file of ['ca.pem', 'node.pem', 'node.key']) rmSync(host.path(`/etc/homeproxy/${file}`));
  const word = '/run/invitation';
  const args = ['ca', 'invite', 'host1', '--address', host.address, '--word-file', word];
  const inviting = new NodeCommand(home, ['homeproxy', ...args]);
  await inviting.printed(/waiting for host1/);
  const joined = await new NodeCommand(host, [
    'homeproxy',
    'node',
    'join',
    readFileSync(home.path(word), 'utf8').trim(),
  ]).ended;
  const invited = await inviting.ended;
  assert.equal([joined.status, invited.status], [0, 0], `${describe(joined)}${describe(invited)}`);
  await lab.startDaemon('host1');
  assert.equal(
    (await scenario.hosts('home')).map(({ reachable }) => reachable),
    [true, true, true],
  );
});

test('new certificates of both ends are taken up by daemons that run, and a process moves with them', async () => {
  const { home, lab } = scenario;
  const before = await Promise.all(['home', 'host1'].map((node) => scenario.daemonPid(node)));
  for (const node of ['home', 'host1']) {
    const { address } = lab.node(node);
    await home.run(['homeproxy', 'ca', 'issue', node, '--address', address, '--out', `/run/${node}-files`]);
    for (const file of ['node.key', 'node.pem']) {
      copyFileSync(home.path(`/run/${node}-files/${file}`), lab.node(node).path(`/etc/homeproxy/${file}`));
    }
  }
  await Promise.all([renewed('home', 1), renewed('host1', 1)]);
  const pid = await startServer(home, [TICKER, String(PORT + 2)], PORT + 2);
  await scenario.migrate(pid, 'host1');
  await scenario.recall(pid);
  assert.equal(await Promise.all(['home', 'host1'].map((node) => scenario.daemonPid(node))), before);
});

test('a node whose certificates are revoked is cut off at once, and told why', async () => {
  const { home } = scenario;
  await home.run(['homeproxy', 'ca', 'revoke', 'host1']);
  copyFileSync(home.path(`${AUTHORITY}/ca.crl`), home.path('/etc/homeproxy/ca.crl'));
  await renewed('home', 2);
  const [seenFromHome, seenFromHost] = [await scenario.hosts('home'), await scenario.hosts('host1')];
  assert.is(seenFromHome.find(({ name }) => name === 'host1')?.error?.code, 'HOST_NOT_TRUSTED');
  assert.is(seenFromHost.find(({ name }) => name === 'home')?.error?.code, 'PEER_REVOKED');
  assert.ok(existsSync(home.path('/etc/homeproxy/ca.crl')));
});

test.run();
