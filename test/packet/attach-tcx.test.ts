/** tc programs as links of tcx: beside those of others, on interfaces that come and go. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { programInfo, tcAttach, tcQuery, tcxQuery, withNetworkNamespace } from '../../addon/lib/index.js';
import { inFrontOfUs } from '../../cli/preflight/uplinks.js';
import { Rtnetlink } from '../../cli/system/rtnetlink.js';
import { attaching, foreignProgram, ip, open, PRIORITY, ways } from './attach-scene.js';
import { classifier, classifiers } from './classifiers.js';
import { Machine } from './network.js';

const idsOf = (programs: readonly { programId: number }[]): number[] => programs.map(({ programId }) => programId);

const test = attaching('tcx');

test('lo gets no qdisc where there is tcx, and has our program as long as it is needed', async (context) => {
  const datapath = await open(context);
  for (const needed of [true, false, true]) {
    await datapath.useLoopback(needed);
    assert.not.match(execFileSync('tc', ['qdisc', 'show', 'dev', 'lo'], { encoding: 'utf8' }), /clsact/);
    assert.equal(
      classifiers(1, 'egress').map(({ by, programId }) => [by, programInfo(programId).name]),
      needed ? [['tcx', 'hp_loopback']] : [],
    );
  }
  datapath.close();
  const next = await open(context);
  assert.ok(classifier(1, 'egress'), 'the next daemon finds it there');
  await next.detach();
  next.close();
});

test('check names who has come in front of us since', async (context) => {
  const { object, program } = foreignProgram('tc');
  const datapath = await open(context, 'tc');
  const found = () => inFrontOfUs('up0', context.ifindex, 'egress');
  assert.equal(found(), []);
  const link = program.attachTcx(context.ifindex, 'egress');
  assert.equal(
    found().map(({ check, outcome }) => [check, outcome]),
    [['tc-egress:up0', 'warning']],
  );
  assert.match(found()[0]?.detail ?? '', /^"foreign_tc" came before ours/);
  for (const each of [link, program, object]) each.close();
  assert.equal(found(), []);
  await datapath.detach();
  datapath.close();
});

/** A filter where tc puts one without a priority, one in our own place, which is anybody's where we have none; and a link of tcx. */
for (const [way, tcx, theirs] of [
  ['tcx', true, 0xc000],
  ['tcx', true, PRIORITY],
  ['tcx', true, 'tcx'],
  ['filters', false, 0xc000],
] as const) {
  test(`${way}: what we pass is seen by others, in both directions (${theirs})`, async (context) => {
    const { ifindex } = context;
    const others = (['ingress', 'egress'] as const).map((direction) => {
      const { object, program } = foreignProgram('tc');
      const link = theirs === 'tcx' ? program.attachTcx(ifindex, direction) : undefined;
      return { direction, object, program, link };
    });
    const datapath = await open(context, 'tc', tcx);
    const [peer] = JSON.parse(ip('-j', 'link', 'show', 'peer0')) as { ifindex: number }[];
    const kernel = new Rtnetlink();
    for (const { direction, object, program } of others) {
      if (theirs !== 'tcx') tcAttach({ ifindex, direction, priority: theirs, handle: 1, program });
      else
        assert.equal(idsOf(tcxQuery(ifindex, direction)), [classifier(ifindex, direction), program.id], 'we are first');
      const counter = object.map('foreign.bss');
      const seen = (): bigint => counter.get(Buffer.alloc(4))?.readBigUInt64LE() ?? 0n;
      kernel.useNeighbour(Buffer.from([10, 0, 0, 88]), direction === 'ingress' ? (peer?.ifindex ?? 0) : ifindex); // who has 10.0.0.88?
      for (const end = Date.now() + 5000; seen() === 0n && Date.now() < end; ) await sleep(5);
      assert.ok(seen() > 0n, direction);
      counter.close();
    }
    kernel.close();
    await datapath.detach();
    datapath.close();
    for (const { direction, object, program, link } of others) {
      const left =
        theirs === 'tcx'
          ? idsOf(tcxQuery(ifindex, direction))
          : [tcQuery({ ifindex, direction, priority: theirs, handle: 1 })?.programId];
      assert.equal(left, [program.id], 'it is still there');
      for (const each of [link, program, object]) each?.close();
    }
  });
}

test('an interface that is deleted lets go of us; one that comes again under its name is another, and gets the programs again', async (context) => {
  const datapath = await open(context, 'tc');
  const links = (): string[] => readdirSync(join(context.pins, 'links')).sort();
  const of = (ifindex: number): string[] => ['egress', 'ingress'].map((direction) => `tcx-${ifindex}-${direction}`);
  assert.equal(links(), of(context.ifindex));
  ip('link', 'del', 'up0');
  assert.equal(links(), of(context.ifindex), 'the pinned links stay, with nothing that they attach to');
  datapath.gone('up0');
  assert.equal(links(), []);
  ip('link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'peer0');
  const [link] = JSON.parse(ip('-j', 'link', 'show', 'up0')) as { ifindex: number }[];
  const { ifindex } = await datapath.returned('up0', link?.ifindex ?? 0);
  assert.equal([links(), ways(ifindex)], [of(ifindex), ['tcx', 'tcx']]);
  datapath.close();
  ip('link', 'del', 'up0');
  ip('link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'peer0');
  const next = await open(context, 'tc');
  assert.equal(links(), of(next.status()[0]?.ifindex ?? 0), 'while no daemon ran: the next one finds out');
  await next.detach();
  next.close();
});

test('an interface that goes to another network namespace goes without us', async (context) => {
  const datapath = await open(context, 'tc');
  const elsewhere = await Machine.create();
  const there = () =>
    withNetworkNamespace(`/proc/${elsewhere.pid}/ns/net`, () => {
      const [link] = JSON.parse(ip('-j', 'link', 'show', 'up0')) as { ifindex: number }[];
      return tcxQuery(link?.ifindex ?? 0, 'egress').length;
    });
  try {
    ip('link', 'set', 'up0', 'netns', String(elsewhere.pid));
    assert.is(there(), 1, 'the kernel leaves the programs on it');
    datapath.gone('up0');
    assert.is(there(), 0);
    assert.equal(readdirSync(join(context.pins, 'links')), []);
  } finally {
    elsewhere.run('ip', 'link', 'set', 'up0', 'netns', String(process.pid));
    elsewhere.close();
  }
  await datapath.detach();
  datapath.close();
});

test('a device that is given up is fenced while it is there, and nothing stays pinned of it', async (context) => {
  const datapath = await open(context, 'tc');
  const pinned = (): string[] =>
    readdirSync(join(context.pins, 'links')).filter((name) => !name.includes(`-${context.ifindex}-`));
  ip('link', 'add', 'pod0', 'type', 'veth', 'peer', 'name', 'pod1');
  const [pod] = JSON.parse(ip('-j', 'link', 'show', 'pod0')) as { ifindex: number }[];
  const ifindex = pod?.ifindex ?? 0;
  datapath.addDevice(ifindex, 4, 'pod');
  assert.equal(
    classifiers(ifindex, 'ingress').map(({ by, programId }) => [by, programInfo(programId).name]),
    [['tcx', 'hp_pod']],
  );
  datapath.removeDevice(ifindex);
  assert.ok(classifier(ifindex, 'ingress'), 'what it says goes nowhere');
  ip('link', 'del', 'pod0');
  datapath.removeDevice(0);
  assert.equal(pinned(), []);
  await datapath.detach();
  datapath.close();
});

test.run();
