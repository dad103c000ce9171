import type { BpfMap, BpfObject } from '../../addon/lib/index.js';
import type { FastFlows } from './fast-flows.js';
import type { FastPath } from './fast-path.js';
import type { Flow, FlowKeys } from './flow-keys.js';

/** The binding of flows that are nobody's who departed, though they are on the port of one. */
export const NOBODY = 0;

/**
 * Connections that processes had closed before they departed from this node: its kernel still brings them to their end, and what
 * comes for them passes to it (`left_behind` in bpf/abi.h). The entries outlive the daemon, as all maps do.
 */
export class LeftBehind {
  private readonly ports: BpfMap;
  private readonly flows: BpfMap;

  constructor(
    object: BpfObject,
    private readonly keys: FlowKeys,
    private readonly fastPath: FastPath,
    private readonly fastFlows: FastFlows,
  ) {
    this.ports = object.map('ports');
    this.flows = object.map('flows');
  }

  /** From now on they are this node's, whatever becomes of their ports. A port that is nobody's is left alone. */
  keep(flows: readonly Flow[]): void {
    const mine = this.keys.encodeFlowEntry({ binding: NOBODY });
    const claimed = flows
      .map((flow) => this.keys.encodeFlow(flow))
      .filter((key) => this.ports.get(this.keys.portOfFlow(key)) !== undefined);
    this.fastFlows.remove(claimed);
    this.flows.setBatch(claimed.map((key) => [key, mine] as const));
    for (const port of this.portsOf(claimed)) this.mark(port, 1);
  }

  /** The name of a flow among {@link kept}. */
  nameOf(flow: Flow): string {
    return this.keys.encodeFlow(flow).toString('hex');
  }

  /** Names of all that were kept and not let go. */
  kept(): string[] {
    const some = this.ports.getBatch().some(([, value]) => this.keys.decodePortEntry(value).left_behind === 1);
    if (!some) return []; // flows may be a million
    return this.flows
      .getBatch()
      .filter(([, value]) => this.keys.decodeFlowEntry(value).binding === NOBODY)
      .map(([key]) => key.toString('hex'));
  }

  /** They have come to their end: their ports are as if they had never been. */
  letGo(names: readonly string[]): void {
    const keys = names.map((name) => Buffer.from(name, 'hex'));
    this.flows.deleteBatch(keys);
    const others = new Set(this.portsOf(this.kept().map((name) => Buffer.from(name, 'hex'))).map(hexOf));
    for (const port of this.portsOf(keys)) if (!others.has(hexOf(port))) this.mark(port, 0);
  }

  close(): void {
    this.ports.close();
    this.flows.close();
  }

  private portsOf(flows: readonly Uint8Array[]): Buffer[] {
    const ports = flows.map((flow) => this.keys.portOfFlow(flow));
    return [...new Map(ports.map((port) => [hexOf(port), port])).values()];
  }

  /** While a port has some, its packets take the general path: the fast one does not know them. */
  private mark(port: Buffer, left_behind: 0 | 1): void {
    const present = this.ports.get(port);
    if (present === undefined) return;
    const entry = this.keys.decodePortEntry(present);
    const place = this.keys.fastPlace(port);
    this.fastPath.release(place);
    this.ports.set(port, this.keys.encodePortEntry({ ...entry, left_behind }));
    if (left_behind === 0) this.fastPath.claim(place, entry.binding, entry.shared === 1);
  }
}

function hexOf(bytes: Buffer): string {
  return bytes.toString('hex');
}
