import { pick } from '../fault/chance.js';
import type { BindingFields, ProgramName } from '../packet/bench.js';
import { ARRIVAL_IFINDEX, OTHER_IFINDEX } from '../packet/bench.js';
import { CARE_OF, CARE_OF6, HOME, HOME6, OTHER_NODE, OTHER_NODE6 } from '../packet/scene.js';

/** What a node holds while a batch of packets comes. */
export interface Scene {
  readonly program: ProgramName;
  /** The node is home, or care-of host, of the service. */
  readonly node: typeof HOME | typeof CARE_OF;
  /** Its address of the other family. */
  readonly node6: typeof HOME6 | typeof CARE_OF6;
  readonly transmitInPlace: boolean;
  readonly binding: Required<Omit<BindingFields, 'node'>>;
  /** Of the flow on the shared port. */
  readonly sharedAction: BindingFields['action'];
  /** Frames wait in the binding's queue (which matters when it drains). */
  readonly queued: boolean;
  /** The device that packets come from belongs to the binding (pods and parks). */
  readonly knownDevice: boolean;
  /** Some packets carry marks or are super-packets; tc only. */
  readonly oddSkbs: boolean;
  /** Most packets are such as the fast paths take, in a state in which they do. */
  readonly common: boolean;
}

/** Those that act on bindings. */
export const PROGRAMS: readonly ProgramName[] = [
  'hp_xdp',
  'hp_ingress',
  'hp_egress',
  'hp_pod',
  'hp_replay',
  'hp_loopback',
];
/** Those inside a pod, for which all scenes are alike. */
export const POD_PROGRAMS: readonly ProgramName[] = ['hp_inside', 'hp_entry'];
/** Those that have a fast path. */
const FAST_PROGRAMS: readonly ProgramName[] = ['hp_xdp', 'hp_ingress', 'hp_egress', 'hp_pod'];
/** So many scenes of any kind, then one of the commonest and one inside a pod. */
const KINDS = PROGRAMS.length;
const ACTIONS = ['pass', 'park', 'tunnel', 'deliver', 'drop'] as const;
const EGRESS = ['open', 'hold', 'shut', 'tunnel'] as const;
const HOLDS = ['nothing', 'nothing', 'nothing', 'new', 'datagrams'] as const;
const MTUS = [1500, 1500, 1500, 1400, 1280, 576, 9000, 68];

/** 0: there is no way to the care-of address. */
const NEXT_HOPS = [ARRIVAL_IFINDEX, ARRIVAL_IFINDEX, OTHER_IFINDEX, OTHER_IFINDEX, OTHER_IFINDEX, 0];

/** The programs of arrivals decide alike: what one does in a scene can be held against what the other does. */
export function counterpart(program: ProgramName): ProgramName | undefined {
  return program === 'hp_xdp' ? 'hp_ingress' : undefined;
}

/**
 * A scene by chance; `number` makes sure that every action, egress, queue and program meet each other in the first scenes, and the
 * fast paths what they are for.
 */
export function makeScene(number: number, random: () => number): Scene {
  const round = Math.floor(number / (KINDS + 2));
  const place = number % (KINDS + 2);
  if (place < KINDS) return anyScene(round * KINDS + place, random);
  if (place === KINDS) return commonScene(round, random);
  return { ...anyScene(round, random), program: POD_PROGRAMS[round % POD_PROGRAMS.length] as ProgramName };
}

function commonScene(number: number, random: () => number): Scene {
  const scene = anyScene(Math.floor(random() * 1000), random);
  const home = scene.node === HOME;
  return {
    ...scene,
    program: FAST_PROGRAMS[number % FAST_PROGRAMS.length] as ProgramName,
    binding: {
      ...scene.binding,
      action: home ? 'tunnel' : 'deliver',
      egress: 'open',
      draining: false,
      hold: 'nothing',
      careOf: home ? CARE_OF : OTHER_NODE,
      encapsulation: 'ip',
      mtu: pick([1500, 1500, 1400, 9000], random),
      resolved: true,
      nextHopIfindex: pick([ARRIVAL_IFINDEX, OTHER_IFINDEX], random),
    },
    sharedAction: home ? 'tunnel' : 'deliver',
    knownDevice: true,
    oddSkbs: random() < 0.5,
    common: true,
  };
}

function anyScene(number: number, random: () => number): Scene {
  const program = PROGRAMS[number % PROGRAMS.length] as ProgramName;
  let rest = Math.floor(number / PROGRAMS.length);
  const take = <Item>(list: readonly Item[]): Item => {
    const item = list[rest % list.length] as Item;
    rest = Math.floor(rest / list.length);
    return item;
  };
  const action = take(ACTIONS);
  const node = take([HOME, CARE_OF] as const);
  const egress = take(EGRESS);
  const draining = take([false, true]);
  const queued = take([true, false]);
  const nextHopIfindex = pick(NEXT_HOPS, random);
  const overIpv6 = random() < 0.3;
  const careOf = node === HOME ? (overIpv6 ? CARE_OF6 : CARE_OF) : overIpv6 ? OTHER_NODE6 : OTHER_NODE;
  return {
    program,
    node,
    node6: node === HOME ? HOME6 : CARE_OF6,
    transmitInPlace: random() < 0.5,
    binding: {
      action,
      egress,
      draining,
      hold: pick(HOLDS, random),
      parkIfindex: random() < 0.15 ? 0 : OTHER_IFINDEX,
      careOf,
      home: HOME,
      encapsulation: random() < 0.3 ? 'udp' : 'ip',
      mtu: pick(MTUS, random),
      resolved: nextHopIfindex !== 0 && random() < 0.8,
      nextHopIfindex,
    },
    sharedAction: pick(ACTIONS, random),
    queued,
    knownDevice: random() < 0.9,
    oddSkbs: random() < 0.2,
    common: false,
  };
}
