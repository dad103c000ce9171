import { type BpfMap, type BpfObject, StructCodec } from '../../addon/lib/index.js';
import type { StructInput } from '../../addon/lib/types.js';
import { BugError } from '../errors.js';
import type {
  BindingStruct,
  BlockEntryStruct,
  BlockKeyStruct,
  DeviceStruct,
  LocalEntryStruct,
  NodeEntryStruct,
  OutletStruct,
  ParkReleaseStruct,
  ParkStateStruct,
  PortEntryStruct,
} from './abi.gen.js';
import { addressBytes, encodeAddress } from './address.js';
import { FastFlows } from './fast-flows.js';
import { FastPath, type FastPlace } from './fast-path.js';
import { type Flow, FlowKeys, type LocalPort } from './flow-keys.js';
import { LeftBehind, NOBODY } from './left-behind.js';
import { BLOCK_PORTS, blockIndexes, type PortBlock } from './port-block.js';

const ALL_PORTS = Buffer.alloc(8, 0xff);

/** A map whose key is one u32 and whose value is a structure of the ABI. */
export class RecordMap<Value> {
  constructor(
    private readonly map: BpfMap,
    private readonly codec: StructCodec,
  ) {}

  get(id: number): Value | undefined {
    const bytes = this.map.get(u32(id));
    return bytes === undefined ? undefined : (this.codec.decode(bytes) as Value);
  }

  put(id: number, value: Value): void {
    this.map.set(u32(id), this.codec.encode(value as StructInput));
  }

  delete(id: number): boolean {
    return this.map.delete(u32(id));
  }

  *entries(): Generator<[number, Value]> {
    for (const [key, value] of this.map.getBatch()) yield [key.readUInt32LE(), this.codec.decode(value) as Value];
  }

  /** One integer of every record, without decoding the rest. */
  *column(field: keyof Value & string): Generator<[number, number]> {
    const read = this.codec.numberReader(field);
    for (const [key, value] of this.map.entries()) yield [key.readUInt32LE(), read(value)];
  }

  close(): void {
    this.map.close();
  }
}

/** The maps that say which packets belong to which binding, and what becomes of them. */
export class Tables {
  readonly bindings: RecordMap<BindingStruct>;
  readonly devices: RecordMap<DeviceStruct>;
  readonly parkStates: RecordMap<ParkStateStruct>;
  readonly parkReleases: RecordMap<ParkReleaseStruct>;
  readonly counters: BpfMap;
  readonly bindingCounters: BpfMap;
  readonly counterCodec: StructCodec;
  readonly bindingCounterKeyCodec: StructCodec;
  readonly fastPath: FastPath;
  readonly fastFlows: FastFlows;
  readonly leftBehind: LeftBehind;
  private readonly filter: BpfMap;
  private readonly ports: BpfMap;
  private readonly blocks: BpfMap;
  private readonly flows: BpfMap;
  private readonly nodes: BpfMap;
  private readonly localAddresses: BpfMap;
  private readonly outlets: RecordMap<OutletStruct>;
  private readonly keys: FlowKeys;
  private readonly blockKey: StructCodec;
  private readonly blockEntry: StructCodec;
  private readonly nodeEntry: StructCodec;
  private readonly localEntry: StructCodec;

  constructor(object: BpfObject) {
    this.fastPath = new FastPath(object);
    this.fastFlows = new FastFlows(object);
    const codec = (name: string): StructCodec => new StructCodec(object.btf, name);
    this.bindings = new RecordMap(object.map('bindings'), codec('binding'));
    this.devices = new RecordMap(object.map('devices'), codec('device'));
    this.parkStates = new RecordMap(object.map('park_states'), codec('park_state'));
    this.parkReleases = new RecordMap(object.map('park_releases'), codec('park_release'));
    this.counters = object.map('counters');
    this.bindingCounters = object.map('binding_counters');
    this.filter = object.map('port_filter');
    this.ports = object.map('ports');
    this.blocks = object.map('port_blocks');
    this.flows = object.map('flows');
    this.nodes = object.map('nodes');
    this.localAddresses = object.map('local_addresses');
    this.outlets = new RecordMap(object.map('outlets'), codec('outlet'));
    this.counterCodec = codec('counter');
    this.bindingCounterKeyCodec = codec('binding_counter_key');
    this.keys = new FlowKeys(object);
    this.leftBehind = new LeftBehind(object, this.keys, this.fastPath, this.fastFlows);
    this.blockKey = codec('block_key');
    this.blockEntry = codec('block_entry');
    this.nodeEntry = codec('node_entry');
    this.localEntry = codec('local_entry');
  }

  /**
   * Writes a binding; all its flows change at once.
   * @throws {BugError} when its epoch is older than the one in the map: a stale copy never wins.
   */
  putBinding(id: number, binding: BindingStruct): void {
    const present = this.bindings.get(id);
    if (present !== undefined && present.epoch > binding.epoch) {
      throw new BugError(`binding ${id} is at epoch ${present.epoch}, not ${binding.epoch}`);
    }
    this.fastPath.invalidate(id);
    this.bindings.put(id, binding);
    this.fastPath.copy(id, binding);
  }

  /** Makes the fast path's copies anew, after a daemon that may have ended in the middle of a change, or did not know them. */
  copyToFastPath(): void {
    for (const [id, binding] of this.bindings.entries()) {
      this.fastPath.invalidate(id);
      this.fastPath.copy(id, binding);
    }
    for (const [key, value] of this.ports.getBatch()) {
      const { binding, shared, left_behind } = this.keys.decodePortEntry(value);
      const place = this.keys.fastPlace(key);
      if (left_behind === 0) this.fastPath.claim(place, binding, shared === 1);
      else this.fastPath.release(place);
    }
    const single = this.singlePorts();
    for (const [key, value] of this.blocks.getBatch()) {
      const { binding } = this.blockEntry.decode(value) as BlockEntryStruct;
      this.fastPath.claimFree(this.placesOfBlock(key, single), binding);
    }
  }

  /** Makes the copies of flows, of which an older build had none: a million take a second. */
  copyFlowsToFastPath(): void {
    for (const [key, value] of this.flows.entries()) {
      this.fastFlows.copy([key], this.keys.decodeFlowEntry(value).binding);
    }
  }

  /** Takes the binding alone away: from here on its packets are nobody's, and nothing more enters its queue. */
  unbind(id: number): void {
    this.fastPath.remove(id);
    this.bindings.delete(id);
  }

  /** Removes a binding with its ports, flows, order of parked packets and counters. */
  removeBinding(id: number): void {
    this.unbind(id);
    const own: Buffer[] = [];
    const leftBehind: Buffer[] = [];
    const heirs = new Map<string, number>(); // shared ports that the flows of other bindings still need
    for (const [key, value] of this.flows.getBatch()) {
      const { binding } = this.keys.decodeFlowEntry(value);
      if (binding === id) own.push(key);
      else if (binding === NOBODY) leftBehind.push(key);
      else heirs.set(this.keys.portOfFlow(key).toString('hex'), binding);
    }
    this.fastFlows.remove(own);
    this.flows.deleteBatch(own);
    const released: Buffer[] = [];
    for (const [key, value] of this.ports.getBatch()) {
      const entry = this.keys.decodePortEntry(value);
      if (entry.binding !== id) continue;
      const heir = entry.shared === 1 ? heirs.get(key.toString('hex')) : undefined;
      if (heir === undefined) released.push(key);
      else this.ports.set(key, this.keys.encodePortEntry({ ...entry, binding: heir }));
    }
    const blocks = this.blocks
      .getBatch()
      .filter(([, value]) => (this.blockEntry.decode(value) as BlockEntryStruct).binding === id)
      .map(([key]) => key);
    this.release(released, blocks);
    const free = new Set(released.map((key) => key.toString('hex')));
    this.flows.deleteBatch(leftBehind.filter((key) => free.has(this.keys.portOfFlow(key).toString('hex'))));
    this.parkStates.delete(id);
    this.parkReleases.delete(id);
    for (const key of [...this.bindingCounters.keys()]) if (key.readUInt32LE() === id) this.bindingCounters.delete(key);
  }

  /**
   * Gives a port to a binding, but for what was left behind on it. Exclusive: all that comes to it; shared: only the flows that are
   * claimed beside it.
   * @throws {BugError} when another binding has it, unless both share it.
   */
  claimPort(port: LocalPort, binding: number, shared: boolean): void {
    const key = this.keys.encodePort(port);
    const present = this.ports.get(key);
    if (present !== undefined) {
      const entry = this.keys.decodePortEntry(present);
      if (entry.binding !== binding && !(entry.shared === 1 && shared)) {
        throw new BugError(`${port.protocol} port ${port.port} belongs to binding ${entry.binding}`);
      }
    }
    const left_behind = present === undefined ? 0 : this.keys.decodePortEntry(present).left_behind;
    const entry: PortEntryStruct = { binding, shared: shared ? 1 : 0, left_behind };
    this.fastPath.release(this.keys.fastPlace(key));
    this.ports.set(key, this.keys.encodePortEntry(entry));
    this.setFilter(port);
    if (left_behind === 0) this.fastPath.claim(this.keys.fastPlace(key), binding, shared);
  }

  /** Whether all that comes to a port is a binding's. */
  hasPort(port: LocalPort, binding: number): boolean {
    const entry = this.ports.get(this.keys.encodePort(port));
    return entry?.equals(this.keys.encodePortEntry({ binding, shared: 0, left_behind: 0 })) === true;
  }

  /**
   * Gives a block of ports of both protocols, at some local addresses, to a binding. Ports with an entry of their own are its
   * owner's.
   * @throws {BugError} when another binding has a part of the block.
   */
  claimBlock(block: PortBlock, addresses: readonly string[], binding: number): void {
    const indexes = blockIndexes(block);
    const keys = addresses.flatMap((address) =>
      indexes.map((index) => this.blockKey.encode({ local: encodeAddress(address), index } satisfies BlockKeyStruct)),
    );
    for (const key of keys) {
      const present = this.blocks.get(key);
      const owner = present && (this.blockEntry.decode(present) as BlockEntryStruct).binding;
      if (owner !== undefined && owner !== binding) {
        throw new BugError(`ports ${block.first} to ${block.last} belong to binding ${owner}`);
      }
    }
    const value = this.blockEntry.encode({ binding } satisfies BlockEntryStruct);
    this.blocks.setBatch(keys.map((key) => [key, value] as const));
    for (const index of indexes) for (const word of wordsOf(index)) this.filter.set(u32(word), ALL_PORTS);
    const single = this.singlePorts();
    for (const key of keys) this.fastPath.claimFree(this.placesOfBlock(key, single), binding);
  }

  claimFlows(flows: readonly Flow[], binding: number): void {
    const value = this.keys.encodeFlowEntry({ binding });
    const keys = flows.map((flow) => this.keys.encodeFlow(flow));
    this.fastFlows.remove(keys, binding);
    this.flows.setBatch(keys.map((key) => [key, value] as const));
    this.fastFlows.copy(keys, binding);
  }

  /** Ports that name a binding. */
  portsOf(binding: number): LocalPort[] {
    return this.ports
      .getBatch()
      .filter(([, value]) => this.keys.decodePortEntry(value).binding === binding)
      .map(([key]) => this.keys.decodePort(key));
  }

  /**
   * Packets that these nodes tunnel to us are accepted, and no others'. A node that was known before stays so throughout:
   * a daemon that restarts must not refuse a single packet.
   */
  setNodes(
    nodes: readonly (string | { readonly address: string; readonly otherAddress?: string | undefined })[],
  ): void {
    const known = nodes
      .map((node) => (typeof node === 'string' ? { address: node } : node))
      .flatMap(({ address, otherAddress }: { address: string; otherAddress?: string | undefined }) =>
        (otherAddress === undefined ? [address] : [address, otherAddress]).map((own) => ({ own, address })),
      );
    known.forEach(({ own, address }, id) => {
      const entry: NodeEntryStruct = { id, address: encodeAddress(address) };
      this.nodes.set(addressBytes(own), this.nodeEntry.encode(entry));
    });
    keepOnly(
      this.nodes,
      known.map(({ own }) => own),
    );
  }

  /** What is for one of these addresses is for this node itself. */
  setLocalAddresses(addresses: readonly string[]): void {
    const entry = this.localEntry.encode({ known: 1 } satisfies LocalEntryStruct);
    for (const address of addresses) this.localAddresses.set(addressBytes(address), entry);
    keepOnly(this.localAddresses, addresses);
  }

  /** Replaces the interfaces that XDP may send frames to beside the one that they came by. */
  setOutlets(ifindexes: readonly number[]): void {
    for (const ifindex of ifindexes) this.outlets.put(ifindex, { known: 1 });
    const known = [...this.outlets.column('known')].map(([ifindex]) => ifindex);
    for (const ifindex of known) if (!ifindexes.includes(ifindex)) this.outlets.delete(ifindex);
  }

  close(): void {
    for (const map of [
      this.fastPath,
      this.fastFlows,
      this.leftBehind,
      this.bindings,
      this.devices,
      this.parkStates,
      this.parkReleases,
      this.counters,
      this.bindingCounters,
      this.filter,
      this.ports,
      this.blocks,
      this.flows,
      this.nodes,
      this.localAddresses,
      this.outlets,
    ]) {
      map.close();
    }
  }

  /** Takes entries of `ports` and `port_blocks` away, and the bits of the filter that nobody else needs. */
  private release(ports: readonly Buffer[], blocks: readonly Buffer[]): void {
    const places = ports.map((key) => this.keys.fastPlace(key));
    for (const place of places) this.fastPath.release(place);
    for (const key of blocks) this.fastPath.releaseAll(this.placesOfBlock(key));
    this.ports.deleteBatch(ports);
    this.blocks.deleteBatch(blocks);
    const words = new Map<number, bigint>();
    for (const place of places) words.set(Math.floor(bitOf(place) / BLOCK_PORTS), 0n);
    for (const key of blocks) for (const word of wordsOf(this.blockIndex(key))) words.set(word, 0n);
    for (const key of this.ports.keys()) {
      const bit = bitOf(this.keys.fastPlace(key));
      const word = Math.floor(bit / BLOCK_PORTS);
      const used = words.get(word);
      if (used !== undefined) words.set(word, used | (1n << BigInt(bit % BLOCK_PORTS)));
    }
    for (const key of this.blocks.keys()) {
      for (const word of wordsOf(this.blockIndex(key))) if (words.has(word)) words.set(word, 2n ** 64n - 1n);
    }
    for (const [word, used] of words) {
      const value = Buffer.alloc(8);
      value.writeBigUInt64LE(used);
      this.filter.set(u32(word), value);
    }
  }

  private setFilter(port: LocalPort): void {
    const bit = bitOf(port);
    const key = u32(Math.floor(bit / BLOCK_PORTS));
    const word = this.filter.get(key)?.readBigUInt64LE() ?? 0n;
    const value = Buffer.alloc(8);
    value.writeBigUInt64LE(word | (1n << BigInt(bit % BLOCK_PORTS)));
    this.filter.set(key, value);
  }

  private blockIndex(key: Uint8Array): number {
    return (this.blockKey.decode(key) as BlockKeyStruct).index;
  }

  /**
   * Ports with an entry of their own, which comes before that of a block they are in. Those of them that have no copy have none
   * for a reason: flows were left behind there, or their binding has none.
   */
  private singlePorts(): Set<string> {
    return new Set(this.ports.getBatch().map(([key]) => nameOf(this.keys.fastPlace(key))));
  }

  /** @param but names of ports that are left out */
  private placesOfBlock(key: Uint8Array, but: ReadonlySet<string> = new Set()): FastPlace[] {
    const { local, index } = this.blockKey.decode(key) as BlockKeyStruct;
    return (['tcp', 'udp'] as const)
      .flatMap((protocol) =>
        Array.from({ length: BLOCK_PORTS }, (_, offset) => ({ protocol, port: index * BLOCK_PORTS + offset, local })),
      )
      .filter((place) => but.size === 0 || !but.has(nameOf(place)));
  }
}

function nameOf({ protocol, port, local }: FastPlace): string {
  return `${protocol} ${local.word.join(' ')} ${port}`;
}

function keepOnly(map: BpfMap, addresses: readonly string[]): void {
  const kept = new Set(addresses.map((address) => addressBytes(address).toString('hex')));
  for (const key of [...map.keys()]) if (!kept.has(key.toString('hex'))) map.delete(key);
}

/** Of the filter, and of the fast path's copies: TCP's ports first, then UDP's. */
function bitOf({ protocol, port }: Pick<LocalPort, 'protocol' | 'port'>): number {
  return port + (protocol === 'udp' ? 65_536 : 0);
}

/** The words of the filter that stand for a part of a block. */
function wordsOf(blockIndex: number): number[] {
  return [blockIndex, blockIndex + 65_536 / BLOCK_PORTS];
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
