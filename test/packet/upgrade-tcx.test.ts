// limit: 120 s
/** tc programs that are filters, as builds before tcx left them, become links of tcx, and back. */
import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfLink, BpfMap, BpfObject } from '../../addon/lib/index.js';
import { PinnedMaps } from '../../cli/forwarding/pinned-maps.js';
import { projectFile } from '../../cli/system/project.js';
import { classifiers } from './classifiers.js';
import { refusal } from './refusal.js';
import {
  ALL_HOOKS,
  attached,
  binding,
  ifindex,
  ip,
  leave,
  open,
  pinned,
  takingOver,
  tc,
  UPLINKS,
  version,
} from './take-over-scene.js';

/** How tc programs are attached: as builds before tcx did, and as this one does. */
const WAYS = [
  ['filters', false],
  ['links of tcx', true],
] as const;

const test = takingOver('from filters to tcx');

for (const [from, to] of [WAYS, [...WAYS].reverse()] as const)
  test(`${from?.[0]} of one daemon become ${to?.[0]} of the next, on every device, and one way only`, async (context) => {
    const expected = to?.[1] === true ? 'tcx' : 'filter';
    const first = await open(context, { tcx: from?.[1] });
    const pod = ifindex('up1-peer');
    first.addDevice(pod, 4, 'pod');
    await first.useLoopback(true);
    first.close();
    const before = attached();
    const second = await open(context, { tcx: to?.[1] });
    const after = attached();
    assert.equal(Object.keys(after).sort(), [...ALL_HOOKS].sort());
    for (const hook of ALL_HOOKS) assert.is.not(after[hook], before[hook], hook);
    const places = [
      ...UPLINKS.flatMap((name) => [[ifindex(name), 'ingress'] as const, [ifindex(name), 'egress'] as const]),
      [pod, 'ingress'] as const,
      [1, 'egress'] as const,
    ];
    for (const [index, direction] of places) {
      const found = classifiers(index, direction).map(({ by }) => by);
      assert.equal(found, [expected], `${direction} of ${index}`);
    }
    // to take a qdisc away loses what is sent in that moment
    for (const name of UPLINKS) assert.match(tc('qdisc', 'show', 'dev', name), /clsact/);
    await second.detach();
    second.close();
    for (const name of [...UPLINKS, 'up1-peer', 'lo']) assert.not.match(tc('qdisc', 'show', 'dev', name), /clsact/);
  });

for (const [from, to] of [WAYS, [...WAYS].reverse()] as const)
  test(`from ${from?.[0]} to ${to?.[0]}: a start that fails leaves the old programs as they were attached`, async (context) => {
    await leave(context, { uplinks: ['up0'], tcx: from?.[1] });
    const found = () => (['ingress', 'egress'] as const).flatMap((side) => classifiers(ifindex('up0'), side));
    const before = found();
    assert.is(before.length, 2);
    ip('link', 'set', 'up1-peer', 'mtu', '65535'); // more than a veth takes with native XDP
    assert.equal(((await refusal(open(context, { tcx: to?.[1] }))) as { code?: string }).code, 'ERANGE');
    assert.equal(found(), before);
    const again = await open(context, { uplinks: ['up0'] });
    assert.equal(again.tables.bindings.get(4), binding);
    again.close();
  });

test('builds that know no tcx may take over from filters; what is attached by tcx they refuse, and it goes on', async (context) => {
  const older = version('older', { 'abi.h': ['LAYOUT_VERSION = 2', 'LAYOUT_VERSION = 1'] });
  await leave(context, { tcx: false });
  const back = await open(context, { tcx: false, objectPath: older });
  assert.equal(back.tables.bindings.get(4), binding);
  back.close();
  (await open(context)).close();
  const [before, maps] = [attached(), pinned(context)];
  const error = await refusal(open(context, { tcx: false, objectPath: older }));
  assert.equal([error.code, error.exitStatus], ['LAYOUT_UNKNOWN', 7]);
  assert.match(error.message, /layout 2, and this build knows 1$/);
  assert.equal([attached(), pinned(context)], [before, maps]);
});

test('a daemon that is killed while it goes over to tcx leaves nothing that those builds would take; one that fails, all', async (context) => {
  const layout = (): number => {
    const map = BpfMap.openPinned(join(context.pins, 'maps/layout'));
    try {
      return map.get(Buffer.alloc(4))?.readUInt32LE() ?? 0;
    } finally {
      map.close();
    }
  };
  await leave(context, { tcx: false });
  const object = BpfObject.open(projectFile('bpf/build/homeproxy.bpf.o'));
  const maps = PinnedMaps.adopt(context.pins, object);
  object.load();
  maps.stage();
  assert.is(layout(), 1);
  maps.announceTcx();
  assert.is(layout(), 2);
  maps.abandon();
  assert.is(layout(), 1);
  for (const each of [maps, object]) each.close();
});

test('links of a daemon that was killed while it pinned them are adopted', async (context) => {
  await leave(context);
  const folder = join(context.pins, 'links');
  const ids = (): Record<string, number> =>
    Object.fromEntries(
      readdirSync(folder).map((name) => {
        const link = BpfLink.openPinned(join(folder, name));
        const { id } = link.info();
        link.close();
        return [name, id];
      }),
    );
  const before = ids();
  assert.is(Object.keys(before).length, ALL_HOOKS.length);
  for (const name of readdirSync(folder)) renameSync(join(folder, name), join(folder, `${name}-new`));
  const next = await open(context);
  assert.equal(ids(), before);
  for (const name of readdirSync(folder)) renameSync(join(folder, name), join(folder, `${name}-new`));
  await next.detach();
  next.close();
  assert.equal(attached(), {});
});

test.run();
