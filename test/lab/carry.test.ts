// limit: 120 s
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { makeFifo } from '../../addon/lib/index.js';
import type { ProcessCheck } from '../../cli/check-report.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { suite } from '../suite.js';
import { startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { APP, buildLedger } from './ledger.js';
import { LineClient } from './line-client.js';
import { describe, errorOf, oneLine, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const PORT = 7300;
const DATA = `${APP}/data`;
const JOURNAL = `${DATA}/journal`;
const LIBRARY = `${APP}/lib/libledger.so.1`;
const EXTRA = `${APP}/lib/libextra.so`;
const CARRIED = '/var/lib/homeproxy/carried';

let scenario: Scenario;
let pid: number;
let client: LineClient;
/** Lines that the server has in its journal. */
const lines: string[] = [];

function install(home: LabNode, host1: LabNode, built: string): void {
  for (const name of ['bin', 'lib', 'data']) mkdirSync(home.path(`${APP}/${name}`), { recursive: true });
  cpSync(join(built, 'ledger'), home.path(`${APP}/bin/ledger`));
  chmodSync(home.path(`${APP}/bin/ledger`), 0o755);
  cpSync(join(built, 'libledger.so.1'), home.path(`${APP}/lib/libledger.so.1.0`));
  symlinkSync('libledger.so.1.0', home.path(LIBRARY));
  writeFileSync(home.path(`${DATA}/greeting`), 'hello\n');
  writeFileSync(home.path(`${DATA}/old`), 'old\n');
  makeFifo(home.path(`${DATA}/orders`));
  chownSync(home.path(`${DATA}/orders`), 1234, 5678);
  chmodSync(home.path(`${DATA}/orders`), 0o620);
  // What would be mixed in if anything of the host were to be found: another version of both libraries, and other data.
  mkdirSync(host1.path(`${APP}/lib`), { recursive: true });
  cpSync(join(built, 'libledger.so.2'), host1.path(`${APP}/lib/libledger.so.1.0`));
  symlinkSync('libledger.so.1.0', host1.path(LIBRARY));
  cpSync(join(built, 'libledger.so.2'), host1.path(EXTRA));
  mkdirSync(host1.path(DATA));
  writeFileSync(host1.path(`${DATA}/greeting`), 'good day\n');
}

const test = suite('files that go with a process: home -> host1 -> host2 -> home');

test.before(async () => {
  scenario = await Scenario.start('carry');
  const { home, lab } = scenario;
  const built = await buildLedger();
  install(home, lab.node('host1'), built);
  rmSync(built, { recursive: true });
  const start = ['sh', '-c', `cd ${DATA} && exec ${APP}/bin/ledger ${PORT} journal`];
  pid = await startServer(home, start, PORT);
  client = await LineClient.connect(scenario.client, home.address, PORT);
});
test.after(async () => {
  await client?.close();
  await downAll();
});

async function add(text: string): Promise<void> {
  lines.push(text);
  assert.is(await client.ask(`add ${text}`), `${lines.length} version 1`);
}

async function move(args: readonly string[]): Promise<{ bytesMoved: number }> {
  const outcome = await scenario.homeproxy('home', [...args, '--json']);
  assert.is(outcome.status, 0, describe(outcome));
  return oneLine(outcome) as { bytesMoved: number };
}

const filesOn = (node: string): string[] => {
  const folder = scenario.lab.node(node).path(CARRIED);
  return existsSync(folder) ? readdirSync(folder) : [];
};

test('check says that another version is in the way with shared files, and what would travel with carried ones', async () => {
  await add('at home');
  const shared = await scenario.homeproxy('home', ['check', String(pid), 'host1', '--json']);
  assert.is(shared.status, 3, describe(shared));
  const codes = (oneLine(shared) as ProcessCheck).verdicts.map(({ code }) => code);
  assert.ok(codes.includes('FILE_MISSING') && codes.includes('FILE_DIFFERS'), codes.join(' '));

  const carried = await scenario.homeproxy('home', ['check', String(pid), 'host1', '--files', 'carry']);
  assert.is(carried.status, 0, describe(carried));
  assert.match(
    carried.stdout,
    /\d+ files \(.* MiB\) go with the process .*; host1 has \d+ of them .* \(CARRIED_FILES\)/,
  );

  const mad = ['check', String(pid), 'host1', '--files', 'carry', '--carry', '/home/../etc/shadow', '--json'];
  const refused = await scenario.homeproxy('home', mad);
  assert.is(refused.status, 3, describe(refused));
  assert.ok((oneLine(refused) as ProcessCheck).verdicts.some(({ code }) => code === 'CARRY_PATH'));
});

test('home -> host1: it runs with its own files, and finds none of the host in their place', async () => {
  await move(['migrate', String(pid), 'host1', '--files', 'carry']);
  assert.equal(placesOf(scenario.lab, 'ledger'), ['host1 (in a pod)']);
  await add('on host1');
  assert.is(await client.ask(`load ${LIBRARY}`), 'version 1');
  assert.match(await client.ask(`load ${EXTRA}`), /cannot open shared object file/);
  assert.is(await client.ask(`first ${DATA}/greeting`), 'hello');
  assert.match(await client.ask('first /etc/homeproxy/node.key'), /^error No such file/);
  assert.match(await client.ask('first /.homeproxy/images/inventory.img'), /^error No such file/);
  for (const node of ['home', 'host1'])
    assert.equal(
      (await scenario.ps(node)).map(({ files }) => files),
      ['carried'],
    );
  assert.equal(filesOn('host1').length, 1);
  const fifo = ['find', CARRIED, '-name', 'orders', '-type', 'p', '-uid', '1234', '-gid', '5678', '-perm', '0620'];
  assert.match((await scenario.lab.node('host1').run(fifo)).stdout, /\/data\/orders\n$/);
});

test('a migration that fails leaves it running with its files, and none of them anywhere else', async () => {
  const host2 = scenario.lab.node('host2');
  writeFileSync(host2.path('/var/lib/homeproxy/carried'), 'no folder can be made here');
  const outcome = await scenario.homeproxy('home', ['migrate', String(pid), 'host2', '--json']);
  rmSync(host2.path('/var/lib/homeproxy/carried'));
  assert.is.not(outcome.status, 0, describe(outcome));
  await add('still on host1');
  assert.equal([filesOn('host1').length, filesOn('host2')], [1, []]);
});

test('host1 -> host2: what host2 has already is not sent, and host1 keeps nothing', async () => {
  assert.is(await client.ask(`make ${DATA}/new`), 'made');
  assert.is(await client.ask(`gone ${DATA}/old`), 'gone');
  const { bytesMoved } = await move(['migrate', String(pid), 'host2']);
  const libc = readFileSync('/lib/x86_64-linux-gnu/libc.so.6').length;
  assert.ok(bytesMoved < libc, `${bytesMoved} bytes, and the C library alone has ${libc}`);
  await add('on host2');
  assert.is(await client.ask(`first ${DATA}/new`), 'made');
  assert.equal([filesOn('host1'), filesOn('host2').length], [[], 1]);
  const { host1 = [] } = scenario.untouched;
  assert.equal(await settledTraces(scenario.lab, { host1 }), { host1 });
  assert.is(readFileSync(scenario.lab.node('host1').path(`${DATA}/greeting`), 'utf8'), 'good day\n');
});

test('a file that home has changed meanwhile stays as it is, and the recall is refused while the process has it open', async () => {
  const journal = scenario.home.path(JOURNAL);
  const atHome = readFileSync(journal, 'utf8');
  assert.is(atHome, 'at home\n');
  writeFileSync(journal, 'somebody wrote this\n');
  const outcome = await scenario.homeproxy('home', ['recall', String(pid), '--json']);
  assert.is(outcome.status, 3, describe(outcome));
  assert.match(errorOf(outcome).message, /journal.*changed at home too.*FILE_CONFLICT/s);
  assert.is(readFileSync(journal, 'utf8'), 'somebody wrote this\n');
  writeFileSync(journal, atHome);
  await add('on host2 again');
});

test('host2 -> home: what it wrote, made and removed is so at home, and no host has anything of it', async () => {
  writeFileSync(scenario.home.path(`${DATA}/untouched`), 'made at home meanwhile\n');
  await move(['recall', String(pid)]);
  assert.equal(placesOf(scenario.lab, 'ledger'), ['home']);
  await add('at home again');
  assert.is(readFileSync(scenario.home.path(JOURNAL), 'utf8'), lines.map((line) => `${line}\n`).join(''));
  assert.equal(readdirSync(scenario.home.path(DATA)).sort(), ['greeting', 'journal', 'new', 'orders', 'untouched']);
  assert.equal([filesOn('host1'), filesOn('host2')], [[], []]);
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
