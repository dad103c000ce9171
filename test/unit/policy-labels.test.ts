import { spawn } from 'node:child_process';
import { chmodSync, copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { parseLabels } from '../../cli/config/labels.js';
import { decide, type Verdict } from '../../cli/policy/engine.js';
import { NO_HISTORY } from '../../cli/policy/history.js';
import { type AskHost, HostBook } from '../../cli/policy/host-book.js';
import { ProcessReader } from '../../cli/policy/process-reader.js';
import { mismatch } from '../../cli/policy/selection.js';
import { hasCallersRights, readLabels } from '../../cli/process/labels.js';
import { Cgroup, unifiedMount } from '../../cli/system/cgroup.js';
import { run } from '../../cli/system/command.js';
import { suite } from '../suite.js';
import { facts, GIB, memory, policies, policy } from './policy-fixtures.js';

const ATTRIBUTE = 'trusted.homeproxy.labels';

const texts = suite('the text of labels');

for (const [text, expected] of [
  ['tier=cache', { tier: 'cache' }],
  [' tier=cache , app = shop ', { tier: 'cache', app: 'shop' }],
  ['example.org/tier=a.b-c_d,batch=', { 'example.org/tier': 'a.b-c_d', batch: '' }],
  ['', {}],
  ['tier', {}],
  ['=cache', {}],
  ['tier=cache=hot', {}],
  ['-tier=a,tier-=b,ti er=c,tier=a b,ok=1', { ok: '1' }],
  ['a=1,a=2', { a: '2' }],
  [`${'x'.repeat(64)}=1,y=${'x'.repeat(64)}`, {}],
] as const) {
  texts(`"${text.slice(0, 50)}" is ${JSON.stringify(expected)}`, () => assert.equal(parseLabels(text), expected));
}

texts('no more than 32 are taken, and none can change what objects are', () => {
  const many = parseLabels(Array.from({ length: 500 }, (_unused, index) => `k${index}=v`).join(','));
  assert.is(Object.keys(many).length, 32);
  const odd = parseLabels('constructor=x,toString=y');
  assert.is(Object.getPrototypeOf(odd), Object.prototype);
  assert.match(mismatch({ labels: { valueOf: ['*'] } }, subject({})) ?? '', /^it has no label "valueOf"$/);
});

texts.run();

function subject(labels: Record<string, string>) {
  const [process] = facts({ processes: [{ pid: 7, name: 'a', user: 'shop', labels }] }).processes;
  if (process === undefined) throw new Error('no process');
  return process;
}

const processes = suite<{ folder: string }>('the labels of a process');

processes.before.each((world) => {
  world.folder = mkdtempSync('/var/tmp/hp-labels-');
});
processes.after.each(({ folder }) => rmSync(folder, { recursive: true }));

/** Starts a program that waits, and calls back with its pid when it is that program. */
async function whileRunning<Result>(
  [program, ...words]: readonly [string, ...string[]],
  options: { env: Record<string, string>; uid?: number; gid?: number },
  look: (pid: number) => Promise<Result> | Result,
): Promise<Result> {
  const child = spawn(program, words, { ...options, stdio: 'ignore' });
  await new Promise((resolve, reject) => child.once('spawn', resolve).once('error', reject)); // after its exec(2)
  try {
    return await look(child.pid ?? 0);
  } finally {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }
}

processes('are those of the environment that it was started with', async () => {
  const env = { A: 'HOMEPROXY_LABELS=no=1', HOMEPROXY_LABELS: 'tier=cache,app=shop', Z: 'z' };
  const found = await whileRunning(['/bin/sleep', '1000'], { env }, readLabels);
  assert.equal(found, { tier: 'cache', app: 'shop' });
  assert.equal(await whileRunning(['/bin/sleep', '1000'], { env: { A: 'b' } }, readLabels), {});
  assert.equal(readLabels(2 ** 22), {}, 'nobody has that number');
});

processes('are those of its cgroup too, which only root can set, and which count more', async () => {
  const top = new Cgroup(unifiedMount()).child(`hp-labels-${process.pid}`).create();
  const inner = top.child('inner').create();
  const set = (path: string, value: string) =>
    run('python3', ['-c', 'import os, sys; os.setxattr(*sys.argv[1:3], sys.argv[3].encode())', path, ATTRIBUTE, value]);
  try {
    await set(top.path, 'tier=cache,app=shop');
    const env = { HOMEPROXY_LABELS: 'tier=mine,more=1' };
    await whileRunning(['/bin/sleep', '1000'], { env }, async (pid) => {
      inner.add(pid);
      assert.equal(readLabels(pid), { tier: 'cache', app: 'shop', more: '1' });
      await set(inner.path, 'tier=inner');
      assert.equal(readLabels(pid), { tier: 'inner', more: '1' });
    });
  } finally {
    await inner.empty();
    inner.remove();
    top.remove();
  }
  const asNobody = `import os; os.setgid(65534); os.setuid(65534); os.setxattr('/tmp', '${ATTRIBUTE}', b'tier=x')`;
  const outcome = await run('python3', ['-c', asNobody]).then(
    () => 'set',
    ({ log }) => String(log),
  );
  assert.match(outcome, /Operation not permitted/);
});

processes('do not count when a program has more rights than who started it', async ({ folder }) => {
  const program = join(folder, 'sleep');
  copyFileSync('/bin/sleep', program);
  chmodSync(folder, 0o755);
  chmodSync(program, 0o755);
  const options = { env: { HOMEPROXY_LABELS: 'tier=cache' }, uid: 65_534, gid: 65_534 };
  assert.equal(await whileRunning([program, '1000'], options, readLabels), { tier: 'cache' });
  chmodSync(program, 0o4755); // root's now, whoever starts it
  assert.equal(await whileRunning([program, '1000'], options, readLabels), {});
});

processes("count only if the kernel says in so many words that it has its caller's rights", () => {
  const vector = (...words: number[]) => Buffer.from(BigUint64Array.from(words.map(BigInt)).buffer);
  assert.ok(hasCallersRights(vector(6, 4096, 23, 0, 0, 0)));
  assert.not(hasCallersRights(vector(6, 4096, 23, 1, 0, 0)));
  assert.not(hasCallersRights(vector(6, 4096, 0, 0)));
  assert.not(hasCallersRights(vector(6, 23, 0, 0)), 'a value is no type');
  assert.not(hasCallersRights(Buffer.from(Uint32Array.of(6, 4096, 23, 0, 25, 99, 0, 0).buffer)), 'words of 32 bits');
  assert.not(hasCallersRights(Buffer.alloc(0)));
});

processes('choose it for a policy, with its user', async () => {
  const own = process.getuid?.() ?? 0;
  const [chosen, other] = ['cache', 'other'].map((tier) =>
    policies(
      `policies: [{name: p, processes: [{name: sleep, user: "${own}", labels: {mine: 'l${process.pid}', tier: [web, '${tier}']}}], when: {draining: true}}]`,
    ),
  );
  const reader = new ProcessReader({ home: 'home', twins: () => [], moving: () => [] });
  const env = { HOMEPROXY_LABELS: `tier=cache,mine=l${process.pid}` };
  // a child of ours is never chosen, so it must not be one
  const parent = spawn('/usr/bin/setsid', ['--fork', '/bin/sleep', '1000'], { env, stdio: 'ignore' });
  await new Promise((resolve) => parent.once('exit', resolve));
  let found = await reader.read(chosen ?? []);
  for (const deadline = Date.now() + 10_000; found.length === 0 && Date.now() < deadline; ) {
    found = await reader.read(chosen ?? []); // setsid ends before its child is the other program
  }
  assert.equal(
    found.map(({ labels }) => labels),
    [{ tier: 'cache', mine: `l${process.pid}` }],
  );
  assert.equal(await reader.read(other ?? []), []);
  for (const { pid } of found) process.kill(pid, 'SIGKILL');
});

for (const [selector, labels, expected] of [
  ['{tier: cache}', { tier: 'cache' }, undefined],
  ['{tier: [web, "ca*"]}', { tier: 'cache' }, undefined],
  ['{tier: "*"}', { tier: '' }, undefined],
  ['{tier: cache}', {}, 'it has no label "tier"'],
  ['{tier: [web, app]}', { tier: 'cache' }, 'its label tier is "cache", not "web" or "app"'],
  ['{tier: cache, app: shop}', { tier: 'cache', app: 'blog' }, 'its label app is "blog", not "shop"'],
] as const) {
  processes(`${JSON.stringify(labels)} for ${selector}: ${expected ?? 'it is chosen'}`, () => {
    const [p] = policies(
      `policies: [{name: p, processes: [{user: shop, labels: ${selector}}], when: {draining: true}}]`,
    );
    assert.is(mismatch(p?.processes[0] ?? {}, subject(labels)), expected);
  });
}

processes.run();

const hosts = suite('the host that labels and processors choose');

const LABELLED = {
  host1: { ...memory(4 * GIB), cpuFeatures: ['avx', 'avx2', 'fpu'] },
  host2: { ...memory(8 * GIB), cpuFeatures: ['avx', 'fpu'] },
  host3: { ...memory(2 * GIB), cpuFeatures: ['avx', 'avx2', 'avx512f', 'fpu'] },
};
const LABELS: Record<string, Record<string, string>> = {
  host1: { rack: 'r1', disk: 'ssd' },
  host2: { rack: 'r2', disk: 'ssd' },
  host3: { rack: 'r10' },
};

function ask(where: string, home: object = {}): Verdict {
  const given = facts({ hosts: { home: { draining: true, ...home }, ...LABELLED }, processes: [{ pid: 7 }] });
  const labelled = Object.entries(given.hosts).map(([name, state]) => [name, { ...state, labels: LABELS[name] }]);
  const p = policy('when: {draining: true}', `where: ${where}`);
  const [verdict] = decide([p], { ...given, hosts: Object.fromEntries(labelled) }, NO_HISTORY, new Map()).verdicts;
  if (verdict === undefined) throw new Error('no verdict');
  return verdict;
}

for (const [where, expected] of [
  ['{}', 'host2'],
  ['{labels: {rack: r1}}', 'host1'],
  ['{labels: {rack: "r1*"}}', 'host1'],
  ['{labels: {rack: [r2, r10]}}', 'host2'],
  ['{labels: {rack: [r2, r10]}, notLabels: {disk: "*"}}', 'host3'],
  ['{labels: {disk: ssd}, notLabels: {rack: [r2]}}', 'host1'],
  ['{cpu: [avx2]}', 'host1'],
  ['{cpu: [avx2, avx512f]}', 'host3'],
] as const) {
  hosts(`where ${where}: ${expected}`, () => {
    const verdict = ask(where);
    assert.is('to' in verdict ? verdict.to : verdict.why, expected);
  });
}

hosts('must have every instruction set of the home, for the process may use it since its start', () => {
  const verdict = ask('{}', { cpuFeatures: ['avx', 'avx2', 'fpu'] });
  assert.is('to' in verdict ? verdict.to : '', 'host1');
  const none = ask('{}', { cpuFeatures: ['amx_tile', 'fpu'] });
  assert.match(none.why, /host1 \(its processors lack amx_tile, which those of its home have\)/);
});

hosts('that is not chosen is told with what it lacks', () => {
  const { why } = ask('{labels: {rack: r3, disk: ssd}}');
  assert.match(why, /host1 \(not labelled rack=r3, but rack=r1 disk=ssd\)/);
  assert.match(why, /host3 \(not labelled rack=r3 disk=ssd, but rack=r10\)/);
  assert.match(ask('{notLabels: {rack: "r*"}}').why, /host2 \(labelled rack=r2\)/);
  assert.match(ask('{cpu: [amx_tile]}').why, /host1 \(its processors lack amx_tile\)/);
  const silent = facts({ hosts: { home: { draining: true }, host1: {} }, processes: [{ pid: 7 }] });
  const p = policy('when: {draining: true}', 'where: {cpu: [avx2]}');
  assert.match(decide([p], silent, NO_HISTORY, new Map()).verdicts[0]?.why ?? '', /its processors are not known/);
});

hosts('has the labels of our configuration, whatever it says of itself', async () => {
  const liar: AskHost = async () => ({ draining: false, disks: {}, labels: { rack: 'r9' } }) as never;
  const book = new HostBook(new Map([['host1', liar]]), [{ name: 'host1', labels: { rack: 'r1' } }]);
  await book.refresh([]);
  assert.equal(book.states().host1?.labels, { rack: 'r1' });
});

hosts.run();
