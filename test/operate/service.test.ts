// limit: 300 s
/** The daemon as a service of a real systemd, on two machines. */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { projectFile } from '../../cli/system/project.js';
import { startServer } from '../lab/c-program.js';
import { bareLab, downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { namespaceDifferences, portraitOf } from '../lab/portrait.js';
import { askTicker, installTicker, TICKER } from '../lab/ticker.js';
import { suite } from '../suite.js';
import { bootMachine, SYSTEM_PATH } from './machine.js';

const UNIT = projectFile('config/systemd/homeproxy.service');
const INSTALLED = '/etc/systemd/system/homeproxy.service';
/** Where nvm and the like put a Node.js, or as good as: no service manager looks there. */
const ELSEWHERE = '/usr/local/nvm/v20/bin';
const PORT = 7400;
/** Starts what follows with a umask, limits and a badness that are not those of the service. */
const APART = 'umask 027 && ulimit -Sc 1000 && ulimit -Sn 512 && echo 100 >/proc/self/oom_score_adj && exec "$0" "$@"';

const test = suite('under a service manager');
const folder = mkdtempSync(join(tmpdir(), 'homeproxy-service-'));
let home: LabNode;
let host: LabNode;
let pid: number;
let conversation: LineClient;
let portrait: readonly string[];

test.before(async () => {
  const lab = await bareLab('service', { hosts: 1 });
  [home, host] = [await bootMachine(lab, 'home'), await bootMachine(lab, 'host1')];
  await moveNode(home);
  cpSync(host.path('/run/lab/bin/homeproxy'), host.path('/usr/local/bin/homeproxy'));
  copyFileSync(UNIT, host.path(INSTALLED));
  await installTicker(home, host);
  pid = await startServer(home, ['sh', '-c', APART, TICKER, String(PORT)], PORT);
  conversation = await LineClient.connect(lab.node('client'), home.address, PORT);
  portrait = await portraitOf(home, pid);
});
test.after(async () => {
  await conversation?.close();
  await downAll();
  rmSync(folder, { recursive: true });
});

/** The machine has its Node.js, and `homeproxy`, where only its administrator finds them. */
async function moveNode(machine: LabNode): Promise<void> {
  const node = `${ELSEWHERE}/node`;
  await machine.run(['mkdir', '-p', ELSEWHERE]);
  const move = SYSTEM_PATH.split(':').includes(dirname(process.execPath)) ? 'mv' : 'cp';
  await machine.run([move, process.execPath, node]);
  const command = machine.path('/run/lab/bin/homeproxy');
  writeFileSync(command, `#!/bin/sh\nexec ${node} '${projectFile('cli/bin/run.js')}' "$@"\n`);
  chmodSync(command, 0o755);
}

async function systemctl(machine: LabNode, ...args: string[]): Promise<string> {
  return (await machine.run(['systemctl', ...args])).stdout.trim();
}

/** The daemon that has said that it is ready; one question, so that the answers are of one moment. */
async function daemonPid(machine: LabNode): Promise<number | undefined> {
  const shown = await systemctl(machine, 'show', '--property=ActiveState,MainPID', 'homeproxy');
  const pid = Number(/^MainPID=(\d+)$/m.exec(shown)?.[1]);
  return shown.includes('ActiveState=active') && pid !== 0 ? pid : undefined;
}

/** The connection that was made before anything moved is served, and it is by one process. */
async function assertServed(): Promise<void> {
  assert.ok((await askTicker(conversation)).awakenings > 0);
}

async function whereItIs(): Promise<string> {
  const { stdout } = await home.run(['homeproxy', 'ps', '--json']);
  const { processes } = JSON.parse(stdout) as { processes: { pid: number; location: string }[] };
  return processes.find((row) => row.pid === pid)?.location ?? 'home';
}

function verify(unit: string): [status: number | null, said: string] {
  const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', unit], { encoding: 'utf8' });
  return [status, `${stdout}${stderr}`];
}

test('systemd finds nothing to complain about in the unit, and would', () => {
  assert.equal(verify(UNIT), [0, '']);
  const wrong = join(folder, 'homeproxy.service');
  writeFileSync(wrong, readFileSync(UNIT, 'utf8').replace('KillMode=process', 'KilMode=process'));
  assert.match(verify(wrong)[1], /Unknown .*'KilMode'/);
});

test('a Node.js that systemd does not find starts by the unit that `setup --service` writes', async () => {
  const said = (await home.run(['homeproxy', 'setup', '--service'])).stdout;
  assert.match(said, /wrote \/etc\/systemd\/system\/homeproxy\.service/);
  const started = await systemctl(home, 'show', '--property=ExecStart', '--value', 'homeproxy'); // it was loaded again
  assert.match(started, `path=${ELSEWHERE}/node ; argv[]=${ELSEWHERE}/node ${projectFile('cli/bin/run.js')} up ;`);
});

test('it has started when the daemon says that it is ready', async () => {
  for (const machine of [home, host]) {
    await systemctl(machine, 'enable', '--now', 'homeproxy');
    assert.is(await systemctl(machine, 'is-active', 'homeproxy'), 'active');
    await machine.run(['homeproxy', 'status']);
  }
  assert.ok((await said(home)).includes('up'));
});

test('it dumps no core, which would hold memory of processes that move', async () => {
  const limits = (await home.run(['cat', `/proc/${await daemonPid(home)}/limits`])).stdout;
  assert.match(limits, /^Max core file size +0 /m);
});

/** What the service has said, each line of it JSON. */
async function said(machine: LabNode): Promise<string[]> {
  await machine.run(['journalctl', '--sync']);
  const { stdout } = await machine.run(['journalctl', '--unit=homeproxy', '--output=cat']);
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'));
  return lines.map((line) => (JSON.parse(line) as { msg: string }).msg);
}

async function journals(machine: LabNode): Promise<string[]> {
  const { stdout } = await machine.run(['find', '/run/log', '/var/log', '-name', 'system*.journal']);
  return stdout.split('\n').filter((path) => path !== '');
}

test('its log is turned over by the journal, and goes on in the next file', async () => {
  const [before, files] = [await said(home), await journals(home)];
  await home.run(['journalctl', '--rotate']);
  assert.is((await journals(home)).length, files.length + 1);
  await systemctl(home, 'restart', 'homeproxy');
  const after = await said(home);
  assert.equal(after.slice(0, before.length), before);
  assert.ok(after.slice(before.length).includes('closing; the datapath stays as it is'), after.join('\n'));
  await home.run(['journalctl', '--vacuum-files=1']);
  assert.is((await journals(home)).length, 1);
});

test('what has moved outlives a restart and a stop of the service, at both ends', async () => {
  await home.run(['homeproxy', 'migrate', String(pid), 'host1']);
  assert.is(await whereItIs(), 'host1');
  for (const machine of [host, home]) {
    await systemctl(machine, 'restart', 'homeproxy');
    await assertServed();
    await systemctl(machine, 'stop', 'homeproxy');
    await assertServed();
    await systemctl(machine, 'start', 'homeproxy');
    await assertServed();
  }
  assert.is(await whereItIs(), 'host1');
});

test('a daemon that is killed is started again, and takes up what is away', async () => {
  const killed = await daemonPid(home);
  assert.ok(killed !== undefined);
  await systemctl(home, 'kill', '--signal=KILL', '--kill-whom=main', 'homeproxy');
  await assertServed();
  for (const deadline = Date.now() + 30_000; [killed, undefined].includes(await daemonPid(home)); await sleep(50)) {
    assert.ok(Date.now() < deadline, 'the service is not started again');
  }
  assert.is(await whereItIs(), 'host1');
});

test('what has come home has kept nothing of the service, and does not end with it', async () => {
  await home.run(['homeproxy', 'recall', String(pid)]);
  assert.is(await whereItIs(), 'home');
  assert.equal(await portraitOf(home, pid), portrait);
  assert.equal(await namespaceDifferences(home, pid), []);
  await systemctl(home, 'stop', 'homeproxy');
  assert.is(await systemctl(home, 'show', '--property=ActiveState', '--value', 'homeproxy'), 'inactive');
  await assertServed();
  await home.run(['homeproxy', 'down']);
  await assertServed();
});

test.run();
