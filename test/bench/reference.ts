import { BpfObject, type BpfProgram } from '../../addon/lib/index.js';
import { projectFile } from '../../cli/system/project.js';
import { HOME, remoteOf, SHARED_PORT } from './frames.js';

const FLOWS_AT_ONCE = 20_000;
const TCP = 6;

/** What the datapath is compared with: see reference.bpf.c. */
export class Reference {
  private readonly programs = new Map<string, BpfProgram>();

  private constructor(private readonly object: BpfObject) {}

  /** With a preallocated table of exactly so many flows, full. */
  static withFlows(flows: number): Reference {
    const path = projectFile('test/bench/build/reference.bpf.o');
    const object = BpfObject.open(path, { mapSizes: { tunnels: flows } }).load();
    const map = object.map('tunnels');
    const value = Buffer.from([10, 0, 0, 3, 0, 0, 0, 0]);
    for (let from = 0; from < flows; from += FLOWS_AT_ONCE) {
      const count = Math.min(FLOWS_AT_ONCE, flows - from);
      map.setBatch(Array.from({ length: count }, (_, i) => [keyOf(from + i), value] as const));
    }
    map.close();
    return new Reference(object);
  }

  program(name: 'return_at_once' | 'tc_return_at_once' | 'constant_header' | 'hash_reference'): BpfProgram {
    const known = this.programs.get(name) ?? this.object.program(name);
    this.programs.set(name, known);
    return known;
  }

  close(): void {
    for (const program of this.programs.values()) program.close();
    this.object.close();
  }
}

/** struct flow of reference.bpf.c. */
function keyOf(flow: number): Buffer {
  const { address, port } = remoteOf(flow);
  const key = Buffer.alloc(16);
  key.writeUInt32BE(address, 0);
  Buffer.from(HOME.split('.').map(Number)).copy(key, 4);
  key.writeUInt16BE(port, 8);
  key.writeUInt16BE(SHARED_PORT, 10);
  key.writeUInt32LE(TCP, 12);
  return key;
}
