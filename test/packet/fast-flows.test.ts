/** Connections on shared ports go by their copies, or as from the general path where they have none. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfMap, BpfObject, type BpfProgram, htons, runBatch } from '../../addon/lib/index.js';
import { FastNumber } from '../../cli/forwarding/abi.gen.js';
import { addressBytes, encodeAddress } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { lineOf } from '../../cli/forwarding/fast-flows.js';
import type { Flow } from '../../cli/forwarding/flow-keys.js';
import { Tables } from '../../cli/forwarding/tables.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { randomFrom } from '../fault/chance.js';
import { suite } from '../suite.js';
import { away, SECOND_HOME } from './fast-path-packets.js';
import { ipv4, tcp, udp } from './packets.js';
import { CARE_OF, CORRESPONDENT, frame, HOME, OTHER_NODE } from './scene.js';

const ONE = 1;
const OTHER = 2;
/** The greatest that can have copies, and one that cannot. */
const LAST = FastNumber.bindings - 1;
const BEYOND = FastNumber.bindings;
const PORT = 80;
const PROGRAMS = ['hp_xdp', 'hp_ingress'] as const;
const WAY_WORDS = 4;
const OWNER = 3;

/** A home node whose programs have the fast path, or have not. Each binding is somewhere else. */
class Home {
  readonly tables: Tables;
  private readonly object: BpfObject;
  private readonly programs: Readonly<Record<(typeof PROGRAMS)[number], BpfProgram>>;

  constructor(fast: boolean) {
    this.object = BpfObject.open(projectFile('bpf/build/homeproxy.bpf.o'), {
      rodata: { node_address: addressBytes(HOME), fast_path: fast ? 1 : 0 },
      mapSizes: { flows: 4096, ports: 1024, binding_counters: 4096 },
    }).load();
    this.programs = { hp_xdp: this.object.program('hp_xdp'), hp_ingress: this.object.program('hp_ingress') };
    this.tables = new Tables(this.object);
    for (const id of [ONE, OTHER, LAST, BEYOND]) this.bind(id);
    for (const address of [HOME, SECOND_HOME]) this.share(ONE, PORT, address);
  }

  bind(id: number): void {
    const care_of = encodeAddress(id === ONE ? CARE_OF : id === OTHER ? OTHER_NODE : `10.0.1.${id % 256}`);
    this.tables.putBinding(id, { ...away, care_of });
  }

  share(id: number, port: number, address = HOME): void {
    for (const protocol of ['tcp', 'udp'] as const) this.tables.claimPort({ protocol, address, port }, id, true);
  }

  /** What becomes of one packet of each flow. */
  run(flows: readonly Flow[], program: (typeof PROGRAMS)[number]) {
    const packets = flows.map(packetOf);
    const lengths = Uint32Array.from(packets, (packet) => packet.length);
    const outputs = Buffer.alloc(lengths.reduce((sum, length) => sum + length + 256, 0));
    const { verdicts, sizes } = runBatch(this.programs[program], { packets: Buffer.concat(packets), lengths, outputs });
    let at = 0;
    return packets.map((_, index) => {
      const out = Buffer.from(outputs.subarray(at, at + (sizes[index] ?? 0)));
      at += sizes[index] ?? 0;
      return { verdict: verdicts[index], out };
    });
  }

  /** Packets that the fast path tunnelled for a binding. */
  fast(id: number): number {
    return this.tables.fastPath.tunnelled(id).reduce((sum, value) => sum + Number(value.readBigUInt64LE()), 0);
  }

  /** The copies themselves. */
  words<Result>(use: (words: Uint32Array) => Result): Result {
    const map = this.object.map('fast_flows');
    try {
      return use(new Uint32Array(map.memory()));
    } finally {
      map.close();
    }
  }

  copies(): number {
    return this.words((words) => {
      let copies = 0;
      for (let at = OWNER; at < words.length; at += WAY_WORDS) if (words[at] !== 0) copies++;
      return copies;
    });
  }
}

function flow(
  change: { protocol?: 'tcp' | 'udp'; home?: string; port?: number; remote?: string; from?: number } = {},
): Flow {
  const { protocol = 'tcp', home = HOME, port = PORT, remote = CORRESPONDENT, from = 1000 } = change;
  return { protocol, local: { address: home, port }, remote: { address: remote, port: from } };
}

function packetOf({ protocol, local, remote }: Flow): Buffer {
  const segment =
    protocol === 'udp'
      ? udp(remote.port, local.port, Buffer.alloc(20))
      : tcp({ sourcePort: remote.port, destinationPort: local.port, flags: 'A', payload: Buffer.alloc(20) });
  return frame(ipv4({ source: remote.address, destination: local.address }, segment));
}

const test = suite('fast flows');
const [fast, general] = [new Home(true), new Home(false)];
const both = (change: (tables: Tables) => void): void => {
  for (const { tables } of [fast, general]) change(tables);
};

test.after.each(() => {
  for (const home of [fast, general]) {
    for (const id of [ONE, OTHER, LAST, BEYOND]) home.tables.removeBinding(id);
    for (const id of [ONE, OTHER, LAST, BEYOND]) home.bind(id);
    for (const address of [HOME, SECOND_HOME]) home.share(ONE, PORT, address);
  }
  assert.is(fast.copies(), 0, 'of removed bindings no copy is left');
});

/** Packets of flows go as from the general path; of the bindings' so many by the fast one. */
function check(flows: readonly Flow[], copied: Readonly<Record<number, number>>, what?: string): void {
  for (const program of PROGRAMS) {
    const before = Object.keys(copied).map((id) => fast.fast(Number(id)));
    assert.equal(fast.run(flows, program), general.run(flows, program), what);
    const more = Object.keys(copied).map((id, index) => [id, fast.fast(Number(id)) - (before[index] ?? 0)]);
    assert.equal(Object.fromEntries(more), copied, `${program} ${what ?? ''}`);
  }
}

test('a flow is found by its copy, and no other by the same', () => {
  both((tables) => tables.claimFlows([flow()], ONE));
  check([flow()], { [ONE]: 1 });
  check([flow({ protocol: 'udp' }), flow({ home: SECOND_HOME }), flow({ from: 1001 })], { [ONE]: 0, [OTHER]: 0 });
});

test('the same ends with the other protocol, or at another local address, are another flow’s', () => {
  both((tables) => {
    tables.claimFlows([flow(), flow({ protocol: 'udp', home: SECOND_HOME })], ONE);
    tables.claimFlows([flow({ protocol: 'udp' })], OTHER);
    tables.claimFlows([flow({ home: SECOND_HOME })], LAST);
  });
  const flows = [flow(), flow({ protocol: 'udp' }), flow({ home: SECOND_HOME })];
  const all = [...flows, flow({ protocol: 'udp', home: SECOND_HOME })];
  check(flows.slice(0, 1), { [ONE]: 1, [OTHER]: 0 });
  check(flows.slice(1, 2), { [ONE]: 0, [OTHER]: 1 });
  check(all, { [ONE]: 1, [OTHER]: 1, [LAST]: 0 });
  for (const protocol of ['tcp', 'udp'] as const) {
    // Of the addresses that have a port one is in fast_ports.
    fast.tables.fastPath.release({ protocol, port: PORT, local: encodeAddress(HOME) });
    fast.tables.fastPath.claim({ protocol, port: PORT, local: encodeAddress(SECOND_HOME) }, ONE, true);
  }
  check(all, { [ONE]: 1, [OTHER]: 0, [LAST]: 1 });
});

test('program and controller agree on the line of every flow', () => {
  const random = randomFrom(7);
  const any = (below: number): number => Math.floor(random() * below);
  const ports = Array.from({ length: 50 }, () => 1024 + any(60_000));
  for (const home of [fast, general]) for (const port of ports) home.share(ONE, port);
  const flows = Array.from({ length: 2000 }, (_, index) =>
    flow({
      protocol: index % 3 === 0 ? 'udp' : 'tcp',
      port: ports[any(ports.length)] as number,
      remote: [1 + any(200), any(256), any(256), any(256)].join('.'),
      from: 1 + any(65_535),
    }),
  ).filter(({ remote }) => !remote.address.startsWith('127.'));
  both((tables) => tables.claimFlows(flows, ONE));
  check(flows, { [ONE]: flows.length });
});

/** So many flows whose copies are on one line. */
function crowd(count: number): Flow[] {
  const ports = (htons(PORT) << 16) + htons(1000);
  const found: Flow[] = [];
  const word = (host: number) => 11 + ((host & 255) << 8) + (((host >> 8) & 255) << 16) + ((host >> 16) << 24);
  const line = lineOf(word(0), ports);
  for (let host = 0; found.length < count; host++) {
    if (lineOf(word(host), ports) !== line) continue;
    found.push(flow({ remote: [11, host & 255, (host >> 8) & 255, host >> 16].join('.') }));
  }
  return found;
}

test('a full line: what finds no way has no copy, until it is claimed when one is free', () => {
  const flows = crowd(6);
  both((tables) => tables.claimFlows(flows.slice(0, 2), ONE));
  both((tables) => tables.claimFlows(flows.slice(2), OTHER));
  check(flows, { [ONE]: 2, [OTHER]: 2 });
  for (const home of [fast, general]) {
    home.tables.removeBinding(ONE);
    home.bind(ONE);
  }
  check(flows, { [ONE]: 0, [OTHER]: 2 });
  both((tables) => tables.claimFlows(flows.slice(2), OTHER));
  check(flows, { [ONE]: 0, [OTHER]: 4 });
});

test('a flow that another binding gets is its own from then on', () => {
  both((tables) => tables.claimFlows([flow(), flow({ from: 1001 })], ONE));
  both((tables) => tables.claimFlows([flow()], OTHER));
  check([flow(), flow({ from: 1001 })], { [ONE]: 1, [OTHER]: 1 });
  both((tables) => tables.claimFlows([flow(), flow(), flow({ from: 1001 })], ONE));
  check([flow(), flow({ from: 1001 })], { [ONE]: 2, [OTHER]: 0 });
  assert.is(fast.copies(), 2);
});

test('bindings beyond those that have copies have none of their flows either', () => {
  both((tables) => tables.claimFlows([flow()], LAST));
  check([flow()], { [LAST]: 1 });
  both((tables) => tables.claimFlows([flow()], BEYOND));
  check([flow()], { [LAST]: 0, [BEYOND]: 0 });
  assert.is(fast.copies(), 0);
});

test('what is left behind on a shared port has no copy any more, whatever the fast path knows of the port', () => {
  const flows = [flow(), flow({ from: 1001 })];
  both((tables) => tables.claimFlows(flows, ONE));
  both((tables) => tables.leftBehind.keep([flow()]));
  check(flows, { [ONE]: 0 });
  for (const protocol of ['tcp', 'udp'] as const) {
    fast.tables.fastPath.claim({ protocol, port: PORT, local: encodeAddress(HOME) }, ONE, true);
  }
  check(flows, { [ONE]: 1 });
  both((tables) => tables.leftBehind.letGo([tables.leftBehind.nameOf(flow())]));
  check(flows, { [ONE]: 1 });
  both((tables) => tables.claimFlows([flow()], OTHER));
  check(flows, { [ONE]: 1, [OTHER]: 1 });
  both((tables) => tables.leftBehind.keep([flow()]));
  fast.tables.copyFlowsToFastPath();
  assert.is(fast.copies(), 1, 'nor after a restart');
});

test('flows of IPv6 have no copies', () => {
  const ends = { local: { address: '2001:db8::2', port: PORT }, remote: { address: '2001:db8::1', port: 1000 } };
  fast.tables.claimFlows([{ protocol: 'tcp', ...ends }], ONE);
  fast.tables.claimFlows([{ protocol: 'tcp', ...ends, remote: { address: CORRESPONDENT, port: 1000 } }], ONE);
  fast.tables.claimFlows([{ protocol: 'tcp', ...ends, local: { address: HOME, port: PORT } }], ONE);
  assert.is(fast.copies(), 0);
});

test('a copy that is being written sends its packets the general way, and stays out of the way of the others', () => {
  const flows = crowd(3);
  both((tables) => tables.claimFlows(flows, ONE));
  check(flows, { [ONE]: 3 });
  const changed = fast.words((words) => {
    const at = words.findIndex((word, index) => index % WAY_WORDS === OWNER && word !== 0);
    const owner = words[at] as number;
    words[at] = 0;
    return { at, owner };
  });
  check(flows, { [ONE]: 2 });
  fast.words((words) => {
    words[changed.at] = changed.owner;
    words[changed.at - OWNER] = (words[changed.at - OWNER] as number) + 1;
  });
  check(flows, { [ONE]: 2 }, 'another remote address');
  fast.words((words) => words.fill(0));
});

test('a daemon that starts on what an older build left makes them all', () => {
  const flows = [...crowd(3), flow(), flow({ protocol: 'udp' })];
  both((tables) => tables.claimFlows(flows, ONE));
  fast.words((words) => words.fill(0));
  check(flows, { [ONE]: 0 });
  fast.tables.copyFlowsToFastPath();
  check(flows, { [ONE]: flows.length });
});

test('an older build’s pinned maps, without copies, get them when they are adopted', async () => {
  const options = {
    objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
    pins: join(bpffs, 'flows'),
    run: join(folder, 'flows'),
    nodeAddress: HOME,
    uplinks: [],
    flowCapacity: 64,
  };
  const older = await Datapath.open(options);
  older.tables.claimFlows([flow(), flow({ from: 1001 })], ONE);
  older.close();
  rmSync(join(options.pins, 'maps/fast_flows'));
  const datapath = await Datapath.open(options);
  try {
    const map = BpfMap.openPinned(join(options.pins, 'maps/fast_flows'));
    assert.is(new Uint32Array(map.memory()).filter((word, at) => at % WAY_WORDS === OWNER && word !== 0).length, 2);
    map.close();
  } finally {
    await datapath.detach();
    datapath.close();
  }
});

test.run();
