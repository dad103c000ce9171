import type { BpfMap, BpfObject } from '../../addon/lib/index.js';
import { FastNumber } from './abi.gen.js';
import { MAPPED } from './address.js';

const WORD_BYTES = 4;

/** Words of 32 bits, as they lie in memory. */
interface Ends {
  readonly remote: number;
  readonly ports: number;
  readonly local: number;
  readonly protocol: number;
}

/**
 * The fast paths' copies of `flows` (bpf/abi.h, fast_flow). Who changes an entry there takes its copy away before and makes the new
 * one afterwards: a daemon that is killed in between leaves one too few. Only flows of IPv4 have copies, of bindings that have one,
 * and no more on a line than it has ways.
 */
export class FastFlows {
  private readonly map: BpfMap;
  private readonly words: Uint32Array;
  /** Where a key of `flows` has what, in bytes; and a way, in words. */
  private readonly key: Readonly<Record<'local' | 'remote' | 'localPort' | 'remotePort' | 'protocol', number>>;
  private readonly way: Readonly<Record<'remote' | 'ports' | 'local' | 'owner' | 'size', number>>;

  constructor(object: BpfObject) {
    const offsets = (name: string) => {
      const { fields, size } = object.btf.struct(name);
      const at = (field: string): number => fields.find((each) => each.name === field)?.offset ?? Number.NaN;
      return { at, size };
    };
    const key = offsets('flow_key');
    this.key = {
      local: key.at('local'),
      remote: key.at('remote'),
      localPort: key.at('local_port'),
      remotePort: key.at('remote_port'),
      protocol: key.at('protocol'),
    };
    const way = offsets('fast_flow');
    this.way = {
      remote: way.at('remote') / WORD_BYTES,
      ports: way.at('remote_port') / WORD_BYTES,
      local: way.at('local') / WORD_BYTES,
      owner: way.at('owner') / WORD_BYTES,
      size: way.size / WORD_BYTES,
    };
    this.map = object.map('fast_flows');
    this.words = new Uint32Array(this.map.memory());
  }

  /**
   * Takes the copies of flows away.
   * @param keys of `flows`
   * @param heir the binding that is to have them: what is its already stays
   */
  remove(keys: readonly Buffer[], heir = 0): void {
    for (const key of keys) {
      const ends = this.endsOf(key);
      const way = ends && this.find(ends);
      if (ends === undefined || way === undefined) continue;
      if (this.words[way + this.way.owner] !== ownerOf(ends, heir)) this.write(way + this.way.owner, 0);
    }
  }

  /**
   * Copies flows that `flows` says are a binding's, as far as there is room. None of them may have another's copy.
   * @param keys of `flows`
   * @param binding 0 (nobody's) has no copies
   */
  copy(keys: readonly Buffer[], binding: number): void {
    if (binding === 0 || binding >= FastNumber.bindings) return;
    for (const key of keys) {
      const ends = this.endsOf(key);
      if (ends === undefined || this.find(ends) !== undefined) continue;
      const way = this.free(ends);
      if (way === undefined) continue;
      this.write(way + this.way.remote, ends.remote);
      this.write(way + this.way.ports, ends.ports);
      this.write(way + this.way.local, ends.local);
      this.write(way + this.way.owner, ownerOf(ends, binding));
    }
  }

  close(): void {
    this.map.close();
  }

  /** The programs see one write after the other, each at once. */
  private write(index: number, word: number): void {
    Atomics.store(this.words, index, word);
  }

  /** undefined: it is of IPv6. */
  private endsOf(key: Buffer): Ends | undefined {
    const [local, remote] = [ipv4At(key, this.key.local), ipv4At(key, this.key.remote)];
    if (local === undefined || remote === undefined) return undefined;
    const ports = key.readUInt16LE(this.key.remotePort) + key.readUInt16LE(this.key.localPort) * 65_536;
    return { remote, ports, local, protocol: key.readUInt8(this.key.protocol) };
  }

  private find({ remote, ports, local, protocol }: Ends): number | undefined {
    const { words, way: at } = this;
    const first = this.lineFor(remote, ports);
    for (let way = first; way < first + this.lineSize; way += at.size) {
      const ends =
        words[way + at.remote] === remote && words[way + at.ports] === ports && words[way + at.local] === local;
      if (ends && (words[way + at.owner] as number) >>> 16 === protocol) return way;
    }
    return undefined;
  }

  private free({ remote, ports }: Ends): number | undefined {
    const first = this.lineFor(remote, ports);
    for (let way = first; way < first + this.lineSize; way += this.way.size) {
      if (this.words[way + this.way.owner] === 0) return way;
    }
    return undefined;
  }

  private lineFor(remote: number, ports: number): number {
    return lineOf(remote, ports) * this.lineSize;
  }

  private get lineSize(): number {
    return FastNumber.ways * this.way.size;
  }
}

/**
 * The line of a flow's copy: fast_line_of() of bpf/fast.h.
 * @param remote its remote address, @param ports its remote port and, in the upper half, its local one: all in network order
 */
export function lineOf(remote: number, ports: number): number {
  const mixed = Math.imul(remote, 0x9e3779b1);
  return Math.imul(mixed ^ (mixed >>> 15) ^ ports, 0x85ebca6b) >>> (32 - FastNumber.line_bits);
}

function ownerOf({ protocol }: Ends, binding: number): number {
  return protocol * 65_536 + binding;
}

/** An IPv4 address as it lies in memory; undefined: it is of IPv6. */
function ipv4At(bytes: Buffer, offset: number): number | undefined {
  const mapped =
    bytes.readUInt32LE(offset) === 0 &&
    bytes.readUInt32LE(offset + 4) === 0 &&
    bytes.readUInt32LE(offset + 8) === MAPPED;
  return mapped ? bytes.readUInt32LE(offset + 12) : undefined;
}
