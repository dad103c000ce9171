// limit: 120 s
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { parseConfig } from '../../cli/config/parse.js';
import { checkCheckpoint } from '../../cli/preflight/checkpoint.js';
import type { Finding } from '../../cli/preflight/finding.js';
import { checkMachine, reversePathFilter } from '../../cli/preflight/machine.js';
import { checkUplinks } from '../../cli/preflight/uplinks.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { enterPrivateWorld, ip, remove } from './private-world.js';

const entered = enterPrivateWorld({ processes: true });
const test = suite<{ folder: string }>('preflight');

function configOf(address: string, more = ''): ReturnType<typeof parseConfig> {
  return parseConfig(`node: home\nnodes:\n  - {name: home, address: ${address}}\n${more}`, 'test.yaml');
}

function named(findings: readonly Finding[], check: string): Finding {
  const found = findings.find((finding) => finding.check === check);
  if (found === undefined) throw new Error(`no ${check} among ${findings.map((each) => each.check).join(', ')}`);
  return found;
}

const outcomes = (findings: readonly Finding[]): string[] =>
  findings.map(({ check, outcome }) => `${check} ${outcome}`);

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'preflight-'));
  ip('link add up0 mtu 1400 type veth peer name up1', 'address add 10.77.0.2/24 dev up0');
  ip('link set up0 up', 'link set up1 up');
});
test.after(({ folder }) => remove(folder));

test('whatever is not in order comes with what to do', ({ folder }) => {
  const findings = checkMachine({ run: folder, bpf: join(folder, 'bpf') });
  for (const { check, outcome, detail, remedy } of findings) {
    assert.ok(detail.length > 0, check);
    if (outcome !== 'ok') assert.ok((remedy ?? '').length > 0, check);
  }
  const checks = findings.map(({ check }) => check);
  assert.is(new Set(checks).size, checks.length, 'each has its own name');
});

test('pins need a bpffs: a plain folder is refused, a mounted one is fine', ({ folder }) => {
  const pins = join(folder, 'bpf', 'homeproxy');
  execFileSync('mkdir', [join(folder, 'bpf')]);
  const look = (): Finding => named(checkMachine({ run: folder, bpf: pins }), 'bpffs');
  assert.is(look().outcome, 'failed');
  execFileSync('mount', ['-t', 'bpf', 'bpf', join(folder, 'bpf')]);
  assert.is(look().outcome, 'ok');
  execFileSync('umount', [join(folder, 'bpf')]);
});

test('a program that is not installed is named with its package', ({ folder }) => {
  const path = process.env.PATH;
  try {
    process.env.PATH = folder;
    const finding = named(checkMachine({ run: folder, bpf: folder }), 'program:catatonit');
    assert.is(finding.outcome, 'failed');
    assert.match(finding.remedy ?? '', /catatonit/);
  } finally {
    process.env.PATH = path;
  }
  assert.is(named(checkMachine({ run: folder, bpf: folder }), 'program:catatonit').outcome, 'ok');
});

test('/run on a tmpfs is fine, elsewhere it is a warning', ({ folder }) => {
  const look = (): Finding => named(checkMachine({ run: folder, bpf: folder }), 'run-tmpfs');
  assert.is(look().outcome, 'ok'); // the private world has one
  execFileSync('mkdir', [join(folder, 'run')]);
  execFileSync('mount', ['--bind', join(folder, 'run'), '/run']);
  const { outcome } = look();
  execFileSync('umount', ['/run']);
  assert.is(outcome, 'warning');
});

test('finds the interface of the node and says what fits into its tunnel', async () => {
  const findings = await checkUplinks(configOf('10.77.0.2'));
  assert.equal(outcomes(findings), ['address ok', 'sources ok', 'uplink-mtu:up0 ok', 'xdp:up0 ok', 'rp-filter:up0 ok']);
  assert.match(named(findings, 'uplink-mtu:up0').detail, /^1400; packets of up to 1380 bytes/);
  assert.is(named(findings, 'xdp:up0').detail, 'free');
});

test('an address that no interface has, and an interface that is not there', async () => {
  const findings = await checkUplinks(configOf('10.77.0.99', 'uplinks: [{interface: nowhere0}, {interface: up0}]'));
  assert.is(named(findings, 'address').outcome, 'failed');
  assert.match(named(findings, 'address').detail, /10\.77\.0\.99/);
  assert.is(named(findings, 'uplink:nowhere0').outcome, 'failed');
  assert.is(named(findings, 'uplink-mtu:up0').outcome, 'ok');
});

test('the stricter reverse-path filter of interface and machine counts', () => {
  const set = (scope: string, mode: number): void => {
    execFileSync('sysctl', ['-qw', `net.ipv4.conf.${scope}.rp_filter=${mode}`]);
  };
  set('all', 0);
  set('up0', 0);
  assert.match(reversePathFilter('up0').detail, /^off/);
  set('up0', 2);
  assert.match(reversePathFilter('up0').detail, /^loose/);
  set('up0', 0);
  set('all', 1);
  assert.match(reversePathFilter('up0').detail, /^strict/);
  set('all', 0);
});

test('a CRIU that is not there is one failure with a remedy', async ({ folder }) => {
  const findings = await checkCheckpoint(join(folder, 'criu'));
  assert.equal(outcomes(findings), ['criu failed']);
  assert.match(findings[0]?.remedy ?? '', /setup\.sh/);
});

test('a CRIU that runs but cannot do its work is not believed', async ({ folder }) => {
  const broken = join(folder, 'broken-criu');
  writeFileSync(
    broken,
    '#!/bin/sh\n[ "$1" = --version ] && echo "Version: 9.9" && exit 0\necho "Error: no" >&2\nexit 1\n',
  );
  chmodSync(broken, 0o755);
  const findings = await checkCheckpoint(broken);
  assert.equal(outcomes(findings), ['criu ok', 'criu-proof failed']);
  assert.match(findings[0]?.detail ?? '', /9\.9/);
  assert.match(findings[1]?.detail ?? '', /status 1/);
});

test('the CRIU of this machine moves a connection', async () => {
  assert.equal(outcomes(await checkCheckpoint('auto')), ['criu ok', 'criu-proof ok']);
});

if (!entered) skip(test, 'preflight', 'needs root');
test.run();
