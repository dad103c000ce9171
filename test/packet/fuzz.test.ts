// limit: 180 s
/**
 * A short run of the packet fuzzer (`npm run fuzz:packets` is the long one), and whether it would see a program that errs:
 * the outcomes are spoilt behind its back.
 */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { Counters, FastNumber, Reason } from '../../cli/forwarding/abi.gen.js';
import { lineOf } from '../../cli/forwarding/fast-flows.js';
import { type CampaignReport, runCampaign, runScene, SCENE_PACKETS, Scenes } from '../fuzz/campaign.js';
import { type CastFlow, DECOY_BINDING, LINES } from '../fuzz/cast.js';
import { type Batch, CHANGE_ROW, Harness, type Outcomes, type Path, SKB_BYTES, SKB_MARK } from '../fuzz/harness.js';
import type { Scene } from '../fuzz/scenes.js';
import { shrink } from '../fuzz/shrink.js';
import { suite } from '../suite.js';
import type { ProgramName } from './bench.js';
import { Protocol } from './packets.js';
import { CARE_OF, HOME, OTHER_NODE } from './scene.js';

const SEED = 20_021;
const XDP_TX = 3;
const REDIRECTED = [3, 4, 7];

const test = suite('fuzz');

type Lie = (outcomes: Outcomes, packet: number) => boolean;

/** Lets the programs run as ever, then changes what is said about the first packet of which `spoil` says that it did. */
class Liar extends Harness {
  private spoil: Lie = () => false;
  private spoilt: Path = 'fast';

  /** @param spoilt the programs about which it lies */
  about(spoil: Lie, spoilt: Path = 'fast'): this {
    this.spoil = spoil;
    this.spoilt = spoilt;
    return this;
  }

  override run(scene: Scene, batch: Batch, program?: ProgramName, path: Path = 'fast'): Outcomes {
    const outcomes = super.run(scene, batch, program, path);
    if (path !== this.spoilt) return outcomes;
    for (let packet = 0; packet < batch.count; packet++) if (this.spoil(outcomes, packet)) break;
    return outcomes;
  }
}

const liar = new Liar(SCENE_PACKETS);

/** A scene in which the service is away: what it gets is tunnelled. */
function away(scenes: Scenes, program: ProgramName): Scene {
  let scene = scenes.make(0);
  for (let number = 1; scene.program !== program; number++) scene = scenes.make(number);
  const binding = {
    ...scene.binding,
    action: 'tunnel',
    careOf: scene.node === HOME ? CARE_OF : OTHER_NODE,
    encapsulation: 'ip',
    hold: 'nothing',
    mtu: 1500,
    nextHopIfindex: 77,
    resolved: true,
  } as const;
  return { ...scene, binding, sharedAction: 'tunnel' };
}

const isRedirected = (outcomes: Outcomes, packet: number): boolean =>
  REDIRECTED.includes(outcomes.verdicts[packet] as number);

/** Changes a bit of what came out, so many bytes from its start. */
function flip({ outputs, outputOffsets }: Outcomes, packet: number, at: number): true {
  const place = (outputOffsets[packet] as number) + at;
  outputs[place] = (outputs[place] as number) ^ 1;
  return true;
}

/** Cuts the last byte off what came out. */
function cut({ sizes }: Outcomes, packet: number): true {
  sizes[packet] = (sizes[packet] as number) - 1;
  return true;
}

/** Whether the first counter that changed is that of a reason, of two words each. */
const isCounted = ({ changes }: Outcomes, packet: number, reason: number): boolean =>
  ((changes[packet * CHANGE_ROW + 1] as number) >> 1) % Counters.per_hook === reason;

/** Whether a whole UDP datagram over IPv4 came out. */
function isDatagram({ outputs, outputOffsets, sizes }: Outcomes, packet: number): boolean {
  const [from, size] = [outputOffsets[packet] as number, sizes[packet] as number];
  if (size < 42 || outputs.readUInt16BE(from + 12) !== 0x0800 || outputs[from + 14] !== 0x45) return false;
  return outputs[from + 23] === Protocol.udp && outputs.readUInt16BE(from + 16) + 14 === size;
}

const lies: readonly (readonly [string, ProgramName, RegExp, (outcomes: Outcomes, packet: number) => boolean])[] = [
  [
    'a packet that no counter counted',
    'hp_egress',
    /no counter/,
    (outcomes, packet) => outcomes.changes.fill(0, packet * CHANGE_ROW, (packet + 1) * CHANGE_ROW) !== undefined,
  ],
  [
    'a packet that two counters counted',
    'hp_ingress',
    /counted once/,
    (outcomes, packet) => {
      outcomes.changes[packet * CHANGE_ROW] = 4;
      return true;
    },
  ],
  [
    'bytes that do not agree',
    'hp_xdp',
    /bytes were counted/,
    (outcomes, packet) => {
      outcomes.changes[packet * CHANGE_ROW + 4] = 13;
      return true;
    },
  ],
  [
    'a passed packet that was touched',
    'hp_xdp',
    /must not be touched/,
    (outcomes, packet) => {
      if (isRedirected(outcomes, packet) || (outcomes.sizes[packet] as number) < 20) return false;
      return flip(outcomes, packet, 19);
    },
  ],
  [
    'an outer header with a wrong checksum',
    'hp_xdp',
    /checksum of the outer header/,
    (outcomes, packet) => {
      if (!isRedirected(outcomes, packet)) return false;
      return flip(outcomes, packet, 24);
    },
  ],
  [
    'a byte of the inner packet that changed',
    'hp_xdp',
    /bytes of the packet have changed/,
    (outcomes, packet) => {
      if (!isRedirected(outcomes, packet)) return false;
      return flip(outcomes, packet, 14 + 20 + 12);
    },
  ],
  [
    'a packet that went back where it must not',
    'hp_xdp',
    /verdict must not be tx/,
    (outcomes, packet) => {
      if (isRedirected(outcomes, packet)) return false;
      outcomes.verdicts[packet] = XDP_TX;
      return true;
    },
  ],
  [
    "an outer header with a wrong checksum among the node's own",
    'hp_loopback',
    /checksum of the outer header/,
    (outcomes, packet) => isRedirected(outcomes, packet) && flip(outcomes, packet, 24),
  ],
  [
    "a tunnel's packet that is longer than its frame",
    'hp_loopback',
    /longer than its frame/,
    (outcomes, packet) => isRedirected(outcomes, packet) && cut(outcomes, packet),
  ],
  [
    "a packet among the node's own that no counter counted",
    'hp_loopback',
    /no counter/,
    (outcomes, packet) => outcomes.changes.fill(0, packet * CHANGE_ROW, (packet + 1) * CHANGE_ROW) !== undefined,
  ],
  [
    'a packet for the home that hp_pod would not know',
    'hp_inside',
    /MAC addresses/,
    (outcomes, packet) => isRedirected(outcomes, packet) && flip(outcomes, packet, 5),
  ],
  [
    'a byte that changed on the way home',
    'hp_inside',
    /bytes of the packet have changed/,
    (outcomes, packet) => isRedirected(outcomes, packet) && flip(outcomes, packet, 30),
  ],
  [
    'a packet for the home that stays in the pod',
    'hp_inside',
    /that a binding has a claim to/,
    (outcomes, packet) => {
      if (!isRedirected(outcomes, packet) || !isDatagram(outcomes, packet)) return false;
      const counters = 2 * (Reason.internal - Reason.homeward); // of two words each
      for (const word of [1, 3]) shift(outcomes.changes, packet * CHANGE_ROW + word, counters);
      outcomes.verdicts[packet] = -1;
      return true;
    },
  ],
  [
    'a packet into lo with addresses of the link',
    'hp_entry',
    /MAC addresses/,
    (outcomes, packet) => isRedirected(outcomes, packet) && flip(outcomes, packet, 0),
  ],
  [
    'a packet into lo that was cut',
    'hp_entry',
    /bytes of the packet have changed/,
    (outcomes, packet) => isRedirected(outcomes, packet) && cut(outcomes, packet),
  ],
  [
    'a packet into a pod under two counters',
    'hp_entry',
    /counted once/,
    ({ changes }, packet) => shift(changes, packet * CHANGE_ROW, 2),
  ],
];

for (const [what, program, expected, spoil] of lies) {
  test(`sees ${what}`, () => {
    const scenes = new Scenes(SEED);
    const scene = away(scenes, program);
    const broken = runScene(liar.about(spoil), scene, scenes.batch);
    assert.match(broken?.invariant ?? 'nothing', expected);
  });
}

test('sees a mark on what goes into the own stack', () => {
  const scenes = new Scenes(SEED);
  liar.about(
    (outcomes, packet) =>
      isCounted(outcomes, packet, Reason.looped_back) && shift(outcomes.contextsOut, packet * SKB_BYTES + SKB_MARK, 1),
  );
  let broken: ReturnType<typeof runScene>;
  for (let number = 0; broken === undefined && number < 100; number++) {
    const scene = scenes.make(number);
    if (scene.program === 'hp_ingress') broken = runScene(liar, scene, scenes.batch);
  }
  assert.match(broken?.invariant ?? 'nothing', /its mark must go/);
});

/** What is said of the programs without fast paths, so that nothing but the law of the fast paths can be broken. */
const differences: readonly (readonly [string, RegExp, (outcomes: Outcomes, packet: number) => boolean])[] = [
  ['frame', /another frame/, (outcomes, packet) => isRedirected(outcomes, packet) && flip(outcomes, packet, 24)],
  ['reason', /rather than/, ({ changes }, packet) => shift(changes, packet * CHANGE_ROW + 1, 2)],
  ['count', /other counts/, ({ changes }, packet) => shift(changes, packet * CHANGE_ROW + 4, 1)],
  ['verdict', /another verdict/, ({ verdicts }, packet) => shift(verdicts, packet, 40)],
  [
    'mark',
    /another skb/,
    (outcomes, packet) =>
      isRedirected(outcomes, packet) && shift(outcomes.contextsOut, packet * SKB_BYTES + SKB_MARK, 1),
  ],
  [
    'binding',
    /for binding \d+, without it/,
    ({ bindings }) => {
      for (const count of bindings) Object.assign(count, { id: DECOY_BINDING });
      return true;
    },
  ],
];

for (const [what, expected, spoil] of differences) {
  test(`sees another ${what} than the general path's`, () => {
    const scenes = new Scenes(SEED);
    const scene = away(scenes, 'hp_ingress');
    const broken = runScene(liar.about(spoil, 'general'), scene, scenes.batch);
    assert.match(broken?.invariant ?? 'nothing', expected);
  });
}

function shift(numbers: Uint32Array | Int32Array | Buffer, at: number, by: number): true {
  numbers[at] = (numbers[at] as number) + by;
  return true;
}

/** Where the fast paths look for a flow's copy. */
function lineFor({ local, remote }: CastFlow): number {
  const ports = [remote[1], local[1]].flatMap((port) => [port >> 8, port & 0xff]);
  const bytes = Buffer.from([...remote[0].split('.').map(Number), ...ports]);
  return lineOf(bytes.readUInt32LE(0), bytes.readUInt32LE(4));
}

test("flows of somebody else's that differ in one thing lie before those that are looked for, on the same line", () => {
  assert.is(new Set(LINES.map(({ flow }) => lineFor(flow))).size, LINES.length);
  for (const { flow, decoys } of LINES) {
    assert.ok(decoys.length < FastNumber.ways);
    for (const decoy of decoys) assert.is(lineFor(decoy), lineFor(flow), `${decoy.remote} to ${decoy.local}`);
  }
});

test('a failure is shrunk to one short packet', () => {
  const scenes = new Scenes(SEED);
  scenes.make(3);
  const entries = scenes.batch.entries();
  const guilty = entries.findIndex(({ frame }) => frame.length > 100);
  const trial = (some: readonly { readonly frame: Buffer }[]) => {
    const packet = some.findIndex(({ frame }) => frame.length > 50 && frame[20] === entries[guilty]?.frame[20]);
    return packet < 0 ? undefined : { packet, invariant: `packet ${packet} is too long` };
  };
  const { entries: left } = shrink(entries, { packet: guilty, invariant: 'packet 0 is too long' }, trial);
  assert.is(left.length, 1);
  assert.is(left[0]?.frame.length, 51);
});

test('what needs two packets is shrunk to these two', () => {
  const scenes = new Scenes(SEED);
  scenes.make(4);
  const entries = scenes.batch.entries();
  const [first, second] = [entries[17], entries[801]];
  const trial = (some: readonly object[]) => {
    const packet = some.length - 1;
    const [head, tail] = [some.indexOf(first as object), some[packet] as { mark: number }];
    return head >= 0 && packet > head && tail.mark === second?.mark ? { packet, invariant: 'together' } : undefined;
  };
  assert.is(shrink(entries, { packet: 801, invariant: 'together' }, trial).entries.length, 2);
});

test('the same seed makes the same packets, another one others', () => {
  const packets = (seed: number, scene: number): Buffer => {
    const scenes = new Scenes(seed);
    scenes.make(scene);
    return Buffer.from(scenes.batch.packets.subarray(0, scenes.batch.end));
  };
  assert.ok(packets(1, 7).equals(packets(1, 7)));
  assert.not.ok(packets(1, 7).equals(packets(2, 7)));
  assert.not.ok(packets(1, 7).equals(packets(1, 8)));
});

/** What each program must have had to do with, lest the run says nothing. */
const COVERED: Readonly<Record<ProgramName, readonly string[]>> = {
  hp_xdp: ['tunnelled', 'delivered', 'parked', 'at_home', 'fenced', 'slow_path', 'malformed', 'tunnel_unknown_node'],
  hp_ingress: [
    ...[
      'tunnelled',
      'delivered',
      'parked',
      'at_home',
      'fenced',
      'too_big',
      'congested',
      'not_ours',
      'split',
      'reversed',
    ],
    ...['path_mtu', 'too_big_relayed', 'fragment_unknown'],
  ],
  hp_egress: ['guarded', 'held', 'at_home', 'not_ours', 'malformed', 'reversed', 'split'],
  hp_pod: ['sent', 'held', 'guarded', 'fenced', 'malformed', 'reversed', 'too_big', 'split'],
  hp_replay: ['tunnelled', 'delivered', 'replayed_home', 'sent', 'guarded', 'malformed'],
  hp_loopback: [
    ...['tunnelled', 'delivered', 'parked', 'at_home', 'fenced', 'guarded', 'held', 'not_ours', 'malformed'],
    ...['internal', 'too_big', 'split'],
  ],
  hp_inside: ['homeward', 'internal', 'not_parsed', 'malformed'],
  hp_entry: ['delivered', 'looped_back'],
};

test('a third of a million mutated packets break no invariant', () => {
  const report: CampaignReport = runCampaign({ packets: 350_000, seed: SEED });
  assert.is(report.failure, undefined, JSON.stringify(report.failure));
  assert.ok(report.packets >= 350_000);
  for (const program of ['hp_xdp', 'hp_ingress']) assert.ok((report.fast[program] ?? 0) > 100, `${program}: fast`);
  for (const [program, reasons] of Object.entries(COVERED)) {
    for (const reason of reasons) assert.ok((report.reasons[program]?.[reason] ?? 0) > 0, `${program}: ${reason}`);
  }
});

test.after(() => liar.close());

test.run();
