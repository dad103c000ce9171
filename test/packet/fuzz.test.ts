// limit: 180 s
/**
 * A short run of the packet fuzzer (`npm run fuzz:packets` is the long one), and whether it would see a program that errs:
 * the outcomes are spoilt behind its back.
 */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { type CampaignReport, runCampaign, runScene, SCENE_PACKETS, Scenes } from '../fuzz/campaign.js';
import { type Batch, CHANGE_ROW, Harness, type Outcomes, type Path, SKB_BYTES, SKB_MARK } from '../fuzz/harness.js';
import { PROGRAMS, type Scene } from '../fuzz/scenes.js';
import { shrink } from '../fuzz/shrink.js';
import { suite } from '../suite.js';
import type { ProgramName } from './bench.js';
import { CARE_OF, HOME, OTHER_NODE } from './scene.js';

const SEED = 20_021;
const XDP_TX = 3;
const REDIRECTED = [3, 4, 7];

const test = suite('fuzz');

/** Lets the programs run as ever, then changes what is said about the first packet of which `spoil` says that it did. */
class Liar extends Harness {
  constructor(
    private readonly spoil: (outcomes: Outcomes, packet: number) => boolean,
    private readonly spoilt: Path = 'fast',
  ) {
    super(SCENE_PACKETS);
  }

  override run(scene: Scene, batch: Batch, program?: ProgramName, path: Path = 'fast'): Outcomes {
    const outcomes = super.run(scene, batch, program, path);
    if (path !== this.spoilt) return outcomes;
    for (let packet = 0; packet < batch.count; packet++) if (this.spoil(outcomes, packet)) break;
    return outcomes;
  }
}

/** A scene in which the service is away: what it gets is tunnelled. */
function away(scenes: Scenes, program: ProgramName): Scene {
  const scene = scenes.make(PROGRAMS.indexOf(program));
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
];

for (const [what, program, expected, spoil] of lies) {
  test(`sees ${what}`, () => {
    const scenes = new Scenes(SEED);
    const scene = away(scenes, program);
    const liar = new Liar(spoil);
    const broken = runScene(liar, scene, scenes.batch);
    assert.match(broken?.invariant ?? 'nothing', expected);
    liar.close();
  });
}

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
];

for (const [what, expected, spoil] of differences) {
  test(`sees another ${what} than the general path's`, () => {
    const scenes = new Scenes(SEED);
    const scene = away(scenes, 'hp_ingress');
    const liar = new Liar(spoil, 'general');
    assert.match(runScene(liar, scene, scenes.batch)?.invariant ?? 'nothing', expected);
    liar.close();
  });
}

function shift(numbers: Uint32Array | Int32Array | Buffer, at: number, by: number): true {
  numbers[at] = (numbers[at] as number) + by;
  return true;
}

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
};

test('a quarter of a million mutated packets break no invariant', () => {
  const report: CampaignReport = runCampaign({ packets: 250_000, seed: SEED });
  assert.is(report.failure, undefined, JSON.stringify(report.failure));
  assert.ok(report.packets >= 250_000);
  for (const program of ['hp_xdp', 'hp_ingress']) assert.ok((report.fast[program] ?? 0) > 100, `${program}: fast`);
  for (const [program, reasons] of Object.entries(COVERED)) {
    for (const reason of reasons) assert.ok((report.reasons[program]?.[reason] ?? 0) > 0, `${program}: ${reason}`);
  }
});

test.run();
