// limit: 240 s
/** One version of the datapath takes over from another: adopted or migrated maps, and what a failure on the way leaves behind. */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfMap, BpfObject, Btf, tcAttach, tcQuery } from '../../addon/lib/index.js';
import type { UserError } from '../../cli/errors.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { refusal } from './refusal.js';
import {
  ADDRESS,
  ALL_HOOKS,
  attached,
  binding,
  ifindex,
  ip,
  leave,
  open,
  PORT,
  pinned,
  takingOver,
  tc,
  UPLINKS,
  version,
} from './take-over-scene.js';

const OBJECT = projectFile('bpf/build/homeproxy.bpf.o');
const test = takingOver('taking over');

let grownObject: string | undefined;
/** A version whose bindings have one more field, before all others. */
function grown(): string {
  const change = ['struct binding {\n\t__u32 epoch;', 'struct binding {\n\t__u64 colour;\n\t__u32 epoch;'] as const;
  grownObject ??= version('grown', { 'abi.h': change });
  return grownObject;
}

test('the same layout: maps stay, every program is a new one', async (context) => {
  await leave(context);
  const [before, maps] = [attached(), pinned(context)];
  assert.equal(Object.keys(before).sort(), [...ALL_HOOKS].sort());
  const second = await open(context);
  const after = attached();
  for (const hook of ALL_HOOKS) assert.is.not(after[hook], before[hook], hook);
  assert.equal(pinned(context), maps);
  assert.equal(second.tables.bindings.get(4), binding);
  second.close();
});

test('a structure with a new field in its middle: content moves, field by field, into new maps', async (context) => {
  await leave(context);
  const before = pinned(context);
  const second = await open(context, { objectPath: grown() });
  assert.equal(second.tables.bindings.get(4), { colour: 0n, ...binding } as never);
  assert.equal(second.tables.portsOf(4), [{ protocol: 'tcp', address: ADDRESS, port: PORT }]);
  const after = pinned(context);
  assert.equal(Object.keys(after), Object.keys(before), 'the same names, and nothing aside');
  assert.is.not(after['maps/bindings'], before['maps/bindings']);
  assert.is(after['maps/ports'], before['maps/ports'], 'a map that fits is not copied');
  second.close();

  // and back: the field is not in use, so that nothing is lost
  const third = await open(context);
  assert.equal(third.tables.bindings.get(4), binding);
  third.close();
});

test('a field in use that this version does not know is a refusal, and the old version goes on', async (context) => {
  const first = await open(context, { objectPath: grown() });
  first.tables.putBinding(4, { ...binding, colour: 7n } as never);
  first.close();
  const [before, maps] = [attached(), pinned(context)];
  const error = await refusal(open(context));
  assert.equal([error.code, error.exitStatus], ['LAYOUT_UNFIT', 7]);
  assert.match(error.message, /"bindings".*colour is in use/);
  assert.equal([attached(), pinned(context)], [before, maps]);
});

test('a smaller table than there are entries is a refusal; one that is large enough takes them', async (context) => {
  const first = await open(context);
  const flow = (port: number) => ({
    protocol: 'tcp' as const,
    local: { address: ADDRESS, port: PORT },
    remote: { address: '10.0.0.1', port },
  });
  first.tables.claimFlows([1, 2, 3, 4, 5].map(flow), 4);
  first.close();
  const before = attached();
  const error = await refusal(open(context, { flowCapacity: 4 }));
  assert.is(error.code, 'LAYOUT_UNFIT');
  assert.match(error.message, /"flows".*only 4/);
  assert.equal(attached(), before);
  const second = await open(context, { flowCapacity: 5 });
  const flows = BpfMap.openPinned(join(context.pins, 'maps/flows'));
  assert.equal([flows.maxEntries, flows.getBatch().length], [5, 5]);
  flows.close();
  second.close();
});

test('per-CPU counters grow with their array, and keep what they have', async (context) => {
  await leave(context);
  const counters = BpfMap.openPinned(join(context.pins, 'maps/counters'));
  const key = Buffer.from(new Uint32Array([5]).buffer);
  const values = (counters.getPerCpu(key) ?? []).map((value, cpu) => {
    value.writeBigUInt64LE(BigInt(cpu + 1));
    return value;
  });
  counters.setPerCpu(key, values);
  counters.close();
  const more = version('hooks', { 'abi.h': ['HOOK_COUNT = 8', 'HOOK_COUNT = 9'] });
  (await open(context, { objectPath: more })).close();
  const larger = BpfMap.openPinned(join(context.pins, 'maps/counters'));
  assert.ok(larger.maxEntries > 8 * 64);
  assert.equal(larger.getPerCpu(key), values);
  larger.close();
});

test('a layout that this version does not know is a refusal that names both', async (context) => {
  const newer = version('newer', { 'abi.h': ['LAYOUT_VERSION = 2', 'LAYOUT_VERSION = 9'] });
  await leave(context, { objectPath: newer });
  const [before, maps] = [attached(), pinned(context)];
  const error = await refusal(open(context));
  assert.equal([error.code, error.exitStatus], ['LAYOUT_UNKNOWN', 7]);
  assert.match(error.message, /layout 9, and this build knows 1 to 2/);
  assert.ok(error.remedy !== undefined);
  assert.equal([attached(), pinned(context)], [before, maps]);
});

test('a daemon that was killed between two renames: the next one finds all of it', async (context) => {
  await leave(context);
  const before = pinned(context);
  execFileSync('mv', ['-T', join(context.pins, 'maps'), join(context.pins, 'maps-new')]);
  execFileSync('mkdir', [join(context.pins, 'maps-old')]);
  const second = await open(context);
  assert.equal(second.tables.bindings.get(4), binding);
  assert.equal(pinned(context), before);
  second.close();
});

test('a program that the verifier refuses leaves the old version attached and its maps as they were', async (context) => {
  await leave(context);
  const [before, maps] = [attached(), pinned(context)];
  const refused = version('refused', {
    'xdp.h': [
      'SEC("xdp")\nint hp_xdp(struct xdp_md *ctx)\n{',
      'SEC("xdp")\nint hp_xdp(struct xdp_md *ctx)\n{\n\tfor (;;)\n\t\tbpf_ktime_get_ns();',
    ],
  });
  const error = await refusal(open(context, { objectPath: refused }));
  assert.match(error.message, /infinite loop|too large|back-edge/i);
  assert.equal([attached(), pinned(context)], [before, maps]);
  const again = await open(context);
  assert.equal(again.tables.bindings.get(4), binding);
  again.close();
});

test('a bpffs that cannot be written to: the old version stays attached', async (context) => {
  await leave(context);
  const [before, maps] = [attached(), pinned(context)];
  const objectPath = grown();
  execFileSync('mount', ['-o', 'remount,ro', bpffs]);
  try {
    const error = await refusal(open(context, { objectPath }));
    assert.is((error as { code?: string }).code, 'EROFS');
  } finally {
    execFileSync('mount', ['-o', 'remount,rw', bpffs]);
  }
  assert.equal([attached(), pinned(context)], [before, maps]);
});

/** Somebody else's programs: they pass everything. */
const FOREIGN = `
  __attribute__((section("xdp"))) int foreign_xdp(void *context) { return 2; }
  __attribute__((section("tc"))) int foreign_tc(void *context) { return -1; }
  char terms[] __attribute__((section("license"))) = "GPL";
`;

function foreign(): BpfObject {
  const [source, object] = [join(folder, 'foreign.bpf.c'), join(folder, 'foreign.o')];
  writeFileSync(source, FOREIGN);
  execFileSync('clang', ['-target', 'bpf', '-O2', '-g', '-c', source, '-o', object]);
  return BpfObject.open(object).load();
}

for (const hook of ['xdp', 'ingress', 'egress'] as const) {
  test(`a second uplink whose ${hook} is taken: nothing of ours is left on the first`, async (context) => {
    const object = foreign();
    const program = object.program(hook === 'xdp' ? 'foreign_xdp' : 'foreign_tc');
    const place = { ifindex: ifindex('up1'), priority: 0x6870, handle: 1 };
    const link = hook === 'xdp' ? program.attachXdp(place.ifindex, { mode: 'native' }) : undefined;
    if (hook !== 'xdp') tcAttach({ ...place, direction: hook, program });
    const before = attached();
    const error = await refusal(open(context, { tcx: false }));
    assert.is(error.code, hook === 'xdp' ? 'XDP_TAKEN' : 'TC_TAKEN');
    assert.equal(attached(), before, 'what was there is there, and no more');
    assert.not.match(tc('qdisc', 'show', 'dev', 'up0'), /clsact/);
    for (const each of [link, program, object]) each?.close();
  });
}

test('an uplink that fails when others are attached already: a first start takes them off again', async (context) => {
  // 65,535 bytes of MTU are more than a veth takes with native XDP: only the attachment can tell
  ip('link', 'set', 'up1-peer', 'mtu', '65535');
  const error = await refusal(open(context));
  assert.equal((error as { code?: string }).code, 'ERANGE');
  assert.equal(attached(), {});
  for (const name of UPLINKS) assert.not.match(tc('qdisc', 'show', 'dev', name), /clsact/);
});

test('and an upgrade puts the old programs back, everywhere', async (context) => {
  await leave(context, { uplinks: ['up0'] });
  ip('link', 'set', 'up1-peer', 'mtu', '65535');
  const before = attached();
  assert.equal(Object.keys(before).sort(), ['up0 egress', 'up0 ingress', 'up0 xdp']);
  assert.equal(((await refusal(open(context))) as { code?: string }).code, 'ERANGE');
  assert.equal(attached(), before);
  const again = await open(context, { uplinks: ['up0'] });
  assert.equal(again.tables.bindings.get(4), binding);
  again.close();
});

for (const [way, tcx] of [
  ['filters', false],
  ['tcx', true],
] as const)
  test(`${way}: an uplink that the settings do not name any more is let go`, async (context) => {
    await leave(context, { tcx });
    (await open(context, { uplinks: ['up1'] })).close();
    assert.equal(Object.keys(attached()).sort(), ['up1 egress', 'up1 ingress', 'up1 xdp']);
    assert.not.match(tc('qdisc', 'show', 'dev', 'up0'), /clsact/);
  });

test('an uplink that was deleted and made anew is attached again: its old link is dead', async (context) => {
  await leave(context, { uplinks: ['up0'] });
  ip('link', 'del', 'up0');
  ip('link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'up0-peer');
  for (const end of ['up0', 'up0-peer']) ip('link', 'set', end, 'up');
  const second = await open(context, { uplinks: ['up0'] });
  assert.equal(Object.keys(attached()).sort(), ['up0 egress', 'up0 ingress', 'up0 xdp']);
  second.close();
});

test('what a daemon left is removed without attaching anything first, beside the programs of others', async (context) => {
  await leave(context, { attach: 'tc' });
  const object = foreign();
  const [xdp, filter] = [object.program('foreign_xdp'), object.program('foreign_tc')];
  const link = xdp.attachXdp(ifindex('up0'), { mode: 'native' });
  const place = { ifindex: ifindex('up1'), direction: 'ingress', priority: 9, handle: 1 } as const;
  tcAttach({ ...place, program: filter });
  const removed = await Datapath.removeLeft(context);
  assert.ok(removed.some((line) => line.includes('tc egress program of up1')));
  assert.equal(attached(), { 'up0 xdp': xdp.id });
  assert.is(tcQuery(place)?.programId, filter.id);
  assert.match(tc('qdisc', 'show', 'dev', 'up1'), /clsact/);
  assert.not.match(tc('qdisc', 'show', 'dev', 'up0'), /clsact/);
  assert.not.ok(existsSync(context.pins));
  assert.equal(await Datapath.removeLeft(context), []);
  for (const each of [link, xdp, filter, object]) each.close();
});

test('a datapath that runs is not removed under its daemon', async (context) => {
  const running = await open(context);
  try {
    await Datapath.removeLeft(context);
    assert.unreachable();
  } catch (error) {
    assert.is((error as UserError).code, 'DATAPATH_LOCKED');
  }
  assert.equal(Object.keys(attached()).length, ALL_HOOKS.length);
  await running.detach();
  running.close();
  assert.equal(attached(), {});
});

test('the type information of a pinned map is what the object declares', async (context) => {
  const datapath = await open(context);
  const map = BpfMap.openPinned(join(context.pins, 'maps/bindings'));
  const declared = Btf.fromObject(OBJECT).struct('binding');
  assert.equal(
    Btf.ofMap(map.info)?.value.fields?.map(({ name, offset }) => [name, offset]),
    declared.fields.map(({ name, offset }) => [name, offset]),
  );
  map.close();
  datapath.close();
});

test.run();
