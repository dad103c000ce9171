// limit: 60 s
/** What the programs report about single packets, through the ring that the daemon reads. */
import '../addon/private-namespaces.js';
import { execFileSync } from 'node:child_process';
import { setImmediate as turn } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { DatapathEvents, type EventFilter, type PacketEvent } from '../../cli/forwarding/events.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type Bench } from './bench.js';
import {
  BINDING,
  CARE_OF,
  CLIENT_PORT,
  CORRESPONDENT,
  careOfBench,
  frame,
  HOME,
  homeBench,
  request,
  SERVICE_PORT,
  tunnelled,
} from './scene.js';

/** The rates are per CPU: all on one. */
execFileSync('taskset', ['-a', '-p', '-c', '0', String(process.pid)], { stdio: 'ignore' });

const DROPS: EventFilter = { drops: true, oneIn: 1, reasons: [] };
const ALL: EventFilter = { drops: false, oneIn: 1, reasons: [] };
const DROPS_PER_SECOND = 50;

const flow = {
  family: 4,
  source: { address: CORRESPONDENT, port: CLIENT_PORT },
  destination: { address: HOME, port: SERVICE_PORT },
};

/** What a subscriber has seen when no more comes. */
async function seenBy(events: DatapathEvents, filter: EventFilter, work: () => void): Promise<PacketEvent[]> {
  const seen: PacketEvent[] = [];
  const stop = events.subscribe(filter, (event) => seen.push(event));
  work();
  await quiet();
  stop();
  return seen;
}

/** Samples are in the ring when a test run returns; its reader looks once in a turn of the loop. */
async function quiet(): Promise<void> {
  for (let turns = 0; turns < 20; turns++) await turn();
}

const test = suite<{ bench: Bench; events: DatapathEvents }>('events');

test.before.each((context) => {
  context.bench = homeBench().bind(BINDING, { action: 'tunnel', egress: 'shut', careOf: CARE_OF });
  context.events = new DatapathEvents(context.bench.object);
});
test.after.each(({ bench, events }) => {
  events.close();
  bench.close();
});

for (const program of ['hp_xdp', 'hp_ingress'] as const) {
  test(`${program}: a drop is reported though nobody traces, with its reason and flow`, async ({ bench, events }) => {
    bench.bind(BINDING, { action: 'drop' });
    const before = Date.now();
    bench.run(program, frame(request()));
    await quiet();
    const [event, ...more] = events.recentDrops(DROPS, 10);
    assert.equal(more, []);
    const { time, ...rest } = event as PacketEvent;
    assert.equal(rest, {
      hook: program === 'hp_xdp' ? 'xdp' : 'ingress',
      verdict: 'drop',
      reason: 'fenced',
      binding: BINDING,
      ifindex: ARRIVAL_IFINDEX,
      length: frame(request()).length,
      protocol: 6,
      flow,
      suppressed: 0,
    });
    assert.ok(time >= before - 5 && time <= Date.now() + 5, `${time} is not between ${before} and now`);
  });

  test(`${program}: what is not dropped is reported while somebody traces, and no longer`, async ({
    bench,
    events,
  }) => {
    const both = (): void => {
      bench.run(program, frame(request()));
      bench.run(program, frame(request({ port: 9 })));
    };
    both();
    const seen = await seenBy(events, ALL, both);
    both();
    await quiet();
    assert.equal(
      seen.map(({ verdict, reason, binding }) => [verdict, reason, binding]),
      [
        ['redirect', 'tunnelled', BINDING],
        ['pass', 'not_ours', 0],
      ],
    );
    assert.equal(seen[0]?.flow, flow, 'of a packet that is in the tunnel by now, the inner flow');
    assert.equal(events.recentDrops(DROPS, 10), []);
  });
}

test('a packet that came tunnelled is shown by its inner flow', async ({ events }) => {
  const host = careOfBench().bind(BINDING, { action: 'deliver' });
  const own = new DatapathEvents(host.object);
  const seen = await seenBy(own, ALL, () => {
    host.run('hp_xdp', frame(tunnelled(request())));
    host.run('hp_xdp', frame(tunnelled(request({ port: 9 }))));
  });
  assert.equal(
    seen.map(({ reason, flow }) => [reason, flow?.destination.port]),
    [
      ['delivered', SERVICE_PORT],
      ['tunnel_no_binding', 9],
    ],
  );
  assert.equal(seen[0]?.flow, flow);
  own.close();
  host.close();
  assert.equal(events.recentDrops(DROPS, 1), []);
});

test('an answer to a packet that is too big counts as its drop, and shows the packet', async ({ bench, events }) => {
  bench.bind(BINDING, { action: 'tunnel', mtu: 1400 });
  const seen = await seenBy(events, DROPS, () => {
    bench.run('hp_ingress', frame(request({ payload: Buffer.alloc(1400) })));
  });
  assert.equal(
    seen.map(({ verdict, reason, flow }) => ({ verdict, reason, flow })),
    [{ verdict: 'answer', reason: 'too_big', flow }],
  );
});

test('a frame without headers that we read is reported without a flow', async ({ bench, events }) => {
  const arp = Buffer.concat([Buffer.alloc(12, 2), Buffer.from([0x08, 0x06]), Buffer.alloc(46)]);
  const [event] = await seenBy(events, ALL, () => void bench.run('hp_xdp', arp));
  assert.equal([event?.reason, event?.flow], ['not_parsed', undefined]);
});

test('each subscriber gets what it asked for: drops, a reason, a binding', async ({ bench, events }) => {
  const filters: Record<string, EventFilter> = {
    drops: DROPS,
    reason: { ...ALL, reasons: ['not_ours', 'guarded'] },
    binding: { ...ALL, binding: BINDING },
  };
  const seen: Record<string, string[]> = { drops: [], reason: [], binding: [] };
  const stops = Object.entries(filters).map(([name, filter]) =>
    events.subscribe(filter, ({ reason }) => seen[name]?.push(reason)),
  );
  bench.run('hp_xdp', frame(request()));
  bench.run('hp_xdp', frame(request({ port: 9 })));
  bench.bind(BINDING, { action: 'drop' }).run('hp_xdp', frame(request()));
  await quiet();
  for (const stop of stops) stop();
  assert.equal(seen, { drops: ['fenced'], reason: ['not_ours'], binding: ['tunnelled', 'fenced'] });
});

test('one in so many: a sample, but every drop', async ({ bench, events }) => {
  const seen = await seenBy(events, { ...ALL, oneIn: 10 }, () => {
    for (let i = 0; i < 900; i++) bench.run('hp_xdp', frame(request()));
    bench.bind(BINDING, { action: 'drop' });
    for (let i = 0; i < 10; i++) bench.run('hp_xdp', frame(request()));
  });
  const sampled = seen.filter(({ reason }) => reason === 'tunnelled').length;
  assert.ok(sampled > 40 && sampled < 180, `${sampled} of 900`); // 90 expected, standard deviation 9
  assert.is(seen.filter(({ reason }) => reason === 'fenced').length, 10);
});

test('a flood of drops is cut off, what is left out is counted, and another reason is still seen', async ({
  bench,
  events,
}) => {
  bench.bind(BINDING, { action: 'drop' });
  const seen: PacketEvent[] = [];
  const stop = events.subscribe(DROPS, (event) => seen.push(event));
  const FLOOD = 400;
  let dropped = 0;
  const fence = (): void => {
    bench.run('hp_xdp', frame(request()));
    dropped += 1;
  };
  while (dropped < FLOOD) fence();
  bench.bind(BINDING, { action: 'park', parkIfindex: 0 }).run('hp_xdp', frame(request()));
  await quiet();
  const first = seen.filter(({ reason }) => reason === 'fenced').length;
  assert.ok(first >= DROPS_PER_SECOND && first < FLOOD, `${first} of ${FLOOD}`);
  assert.is(seen.filter(({ reason }) => reason === 'park_no_queue').length, 1);

  bench.bind(BINDING, { action: 'drop' });
  const accounted = (): number =>
    seen.filter(({ reason }) => reason === 'fenced').reduce((sum, { suppressed }) => sum + 1 + suppressed, 0);
  for (const deadline = Date.now() + 20_000; accounted() < dropped; await quiet()) {
    assert.ok(Date.now() < deadline, `${accounted()} of ${dropped} accounted for`);
    fence();
  }
  assert.is(accounted(), dropped);
  stop();
});

test('the last drops are kept, no more than 512', async ({ bench, events }) => {
  assert.equal(events.recentDrops(DROPS, 5), []);
  bench.bind(BINDING, { action: 'drop' });
  for (let i = 0; i < 20; i++) bench.run('hp_xdp', frame(request({ fromPort: 1000 + i })));
  await quiet();
  const ports = events.recentDrops(DROPS, 5).map((event) => event.flow?.source.port);
  assert.equal(ports, [1015, 1016, 1017, 1018, 1019]);
  assert.equal(events.recentDrops({ ...DROPS, reasons: ['guarded'] }, 5), []);
});

test.run();
