import { isIPv6 } from 'node:net';
import { BugError, UserError } from '../errors.js';
import { Action, type BindingStruct, Egress, Hold, type NextHopStruct } from '../forwarding/abi.gen.js';
import { decodeAddress, encodeAddress, encodeMac } from '../forwarding/address.js';
import type { Datapath } from '../forwarding/datapath.js';
import { type EncapsulationName, tunnelFields } from '../forwarding/encapsulation.js';
import type { LocalPort } from '../forwarding/flow-keys.js';
import { addressOf, LOOPBACK_ADDRESSES } from '../forwarding/loopback.js';
import { type Neighbours, NO_WAY } from '../forwarding/neighbours.js';
import { ParkQueue, type ParkQueueRecord } from '../forwarding/park-queue.js';
import type { PortBlock } from '../forwarding/port-block.js';
import type { PodRecord } from '../pod/pod.js';
import type { ProcessDescription } from '../process/description.js';
import type { RouteMonitor } from '../system/route-monitor.js';
import type { Table } from './journal.js';
import type { LeftBehind } from './left-behind.js';
import type { NodeName, ParkCounts } from './messages.js';

/** What a node forwards with; shared by all its bindings. */
export interface Forwarding {
  readonly datapath: Datapath;
  readonly monitor: RouteMonitor;
  readonly neighbours: Neighbours;
  readonly node: NodeName;
  /** The node's address and, where it has one, that of the other family: tunnels leave from the one of the care-of address's. */
  readonly addresses: readonly string[];
  /** What is around packets in a tunnel to a node, by its name. */
  encapsulationTo(node: string): EncapsulationName;
  /** The interface that has the node's address (another one when it was deleted and made again), and its MTU in bytes. */
  readonly uplinkIfindex: number;
  readonly uplinkMtu: number;
  /** What departed processes say from here goes through their homes. */
  readonly reverseTunnel: boolean;
  /** Longest park queue, in packets. */
  readonly parkPackets: number;
  /** Connections that departed processes had closed, which this node brings to their end. */
  readonly leftBehind: LeftBehind;
  /** Durable records of the queues that are open, by binding. */
  readonly queues: Table<ParkQueueRecord>;
}

interface NewBinding {
  readonly description: ProcessDescription;
  readonly epoch: number;
  /** `home`: an ordinary process of this node. `held`: comes here, neither speaks nor hears yet. */
  readonly state: 'home' | 'held';
  /** Ports of what it opens while it is away. */
  readonly block: PortBlock | undefined;
}

/** Says what becomes of one process's packets on this node, step by step of a migration. */
export class BindingControl {
  private queue: ParkQueue | undefined;
  private unwatch: (() => void) | undefined;
  private readonly hops = new Map<string, NextHopStruct>();

  private constructor(
    private readonly forwarding: Forwarding,
    readonly id: number,
    /** Under which this control acts; a newer one in the map fences it. */
    private epoch: number,
  ) {}

  /** Makes a binding and gives it the ports of the process. Nothing is left of it when that fails. */
  static async create(
    forwarding: Forwarding,
    { description, epoch, state, block }: NewBinding,
  ): Promise<BindingControl> {
    const { tables } = forwarding.datapath;
    const id = freeId(tables.bindings.entries());
    const control = new BindingControl(forwarding, id, epoch);
    tables.parkStates.put(id, { parked: 0n, replayed: 0n });
    tables.putBinding(id, {
      epoch,
      action: state === 'home' ? Action.pass : Action.park,
      egress: state === 'home' ? Egress.open : Egress.hold,
      draining: 0,
      hold: Hold.nothing,
      park_ifindex: 0,
      uplink_ifindex: forwarding.uplinkIfindex,
      pod_ifindex: 0,
      pod_mac: Buffer.alloc(6),
      host_mac: Buffer.alloc(6),
      ...tunnelFields({ to: '0.0.0.0', encapsulation: 'ip' }),
      node: encodeAddress(forwarding.node.address),
      next_hop: NO_WAY,
      home: encodeAddress(description.homeAddresses[0] ?? forwarding.node.address),
    });
    try {
      control.claim(description);
      const addresses = [...description.homeAddresses, ...LOOPBACK_ADDRESSES].map((address) => control.known(address));
      if (block !== undefined) tables.claimBlock(block, addresses, id);
      return control;
    } catch (error) {
      tables.removeBinding(id);
      throw error;
    }
  }

  /** Takes up a binding of a previous daemon, which has forwarded on by itself, and its queue if one was open. */
  static async adopt(
    forwarding: Forwarding,
    { binding: id, epoch }: { readonly binding: number; readonly epoch: number },
    away: NodeName | undefined,
  ): Promise<BindingControl> {
    const control = new BindingControl(forwarding, id, epoch);
    const record = forwarding.queues.get(String(id));
    if (record !== undefined) {
      control.queue = ParkQueue.adopt(forwarding.datapath, id, record);
      if (control.queue === undefined) {
        forwarding.datapath.removeDevice(record.ifindex);
        forwarding.queues.delete(String(id));
        if (control.exists && !control.fenced) control.change({ park_ifindex: 0 });
      }
    }
    if (away !== undefined && away.name !== forwarding.node.name && !control.fenced) {
      await control.resolve(away);
      control.follow(away);
    }
    return control;
  }

  /** Gives the binding ports and flows; those that it has already stay. @throws {BugError} when another has one of them. */
  claim({ ports, flows }: Pick<ProcessDescription, 'ports' | 'flows'>): void {
    const { tables } = this.forwarding.datapath;
    const known = <End extends { readonly address: string }>(end: End): End => ({
      ...end,
      address: this.known(end.address),
    });
    tables.claimFlows(
      flows.map((flow) => ({ ...flow, local: known(flow.local), remote: known(flow.remote) })),
      this.id,
    );
    for (const port of ports) tables.claimPort(known(port), this.id, !port.exclusive);
  }

  /** Whether all that comes to a port is the process's. */
  has(port: LocalPort): boolean {
    return this.forwarding.datapath.tables.hasPort({ ...port, address: this.known(port.address) }, this.id);
  }

  /** An address as the datapath knows it: loopback's are those of the process's home. */
  private known(address: string): string {
    const home = this.forwarding.datapath.tables.bindings.get(this.id)?.home;
    return home === undefined ? address : addressOf(decodeAddress(home), address);
  }

  /** Makes the queue ready, before anything is parked. */
  async openQueue(): Promise<void> {
    if (this.queue !== undefined) return;
    const { datapath, parkPackets, queues } = this.forwarding;
    this.queue = await ParkQueue.create(datapath, this.id, parkPackets);
    queues.put(String(this.id), this.queue.record);
    this.change({ park_ifindex: this.queue.ifindex });
  }

  /** Finds the next hop to a node ahead of the flip. */
  async resolve(node: NodeName): Promise<NextHopStruct> {
    const hop = await this.forwarding.neighbours.resolve(node.address);
    this.hops.set(node.address, hop);
    return hop;
  }

  /** A newer copy is elsewhere: nothing is delivered here, nothing goes out, and no older epoch can change that. */
  fence(epoch: number): void {
    this.unwatch?.();
    this.unwatch = undefined;
    const { tables } = this.forwarding.datapath;
    const present = tables.bindings.get(this.id);
    if (present === undefined) return;
    const dropping = { action: Action.drop, egress: Egress.shut, draining: 0, hold: Hold.nothing };
    tables.putBinding(this.id, { ...present, ...dropping, epoch });
  }

  /** Whether a newer copy is known elsewhere: nothing that this control does counts any more. */
  get fenced(): boolean {
    return (this.forwarding.datapath.tables.bindings.get(this.id)?.epoch ?? 0) > this.epoch;
  }

  /** From now on only this epoch or a later one may write. */
  raise(epoch: number): void {
    this.epoch = epoch;
    this.change({});
  }

  /** Parks the starts of new connections, while those that had begun go on. */
  holdNew(): void {
    this.change({ hold: Hold.new });
  }

  /** Parks all that is not of a connection that had begun. */
  holdDatagrams(): void {
    this.change({ hold: Hold.datagrams });
  }

  /** Connections on these ports that the process has closed, and that are not at their end, stay this node's. It stands still. */
  leaveBehind(ports: readonly number[]): void {
    const home = this.forwarding.datapath.tables.bindings.get(this.id)?.home;
    if (home !== undefined) this.forwarding.leftBehind.keep(ports, decodeAddress(home));
  }

  /** Parks everything. What this node's copy still has to say may go out. */
  park(): void {
    this.change({ action: Action.park, hold: Hold.nothing });
  }

  /** Connects the pod's interface. */
  attachPod(pod: Pick<PodRecord, 'hostIfindex' | 'podMac' | 'hostMac'>): void {
    this.forwarding.datapath.addDevice(pod.hostIfindex, this.id, 'pod');
    this.change({
      pod_ifindex: pod.hostIfindex,
      pod_mac: encodeMac(pod.podMac),
      host_mac: encodeMac(pod.hostMac),
    });
  }

  /**
   * Nobody here speaks for the process any more, though what comes to it is still parked: the timers of a frozen socket run
   * on, and a segment that it retransmits carries a later timestamp than the restored copy's, which its correspondent
   * would then discard (PAWS, RFC 7323, 5).
   */
  silence(): void {
    this.change({ egress: Egress.shut });
  }

  /**
   * The copy on this node may speak again, while what comes to it is still parked.
   * @param home of a process that lives here in a pod
   */
  openEgress(home?: NodeName): void {
    this.change(home === undefined ? { egress: Egress.open } : this.wayOut(home));
  }

  /** To a node, parked packets first. Nobody here speaks for the process from now on. */
  async tunnel(to: NodeName): Promise<ParkCounts> {
    const hop = this.hops.get(to.address) ?? (await this.resolve(to));
    const counts = await this.flip({
      action: Action.tunnel,
      egress: Egress.shut,
      ...this.tunnelTo(to),
      next_hop: hop,
    });
    this.follow(to);
    return counts;
  }

  /** Into the pod, parked packets first. What the process says goes as this node's settings want it. */
  async deliver(home: NodeName): Promise<ParkCounts> {
    const counts = this.flip({ action: Action.deliver, ...this.wayOut(home) });
    this.follow(home);
    return await counts;
  }

  /** After a restart: a process that runs here speaks as the settings want it now. */
  speakAgain(home: NodeName): void {
    const present = this.forwarding.datapath.tables.bindings.get(this.id);
    if (present?.action !== Action.deliver || this.fenced) return;
    this.change(this.wayOut(home));
    this.follow(home);
  }

  private wayOut(home: NodeName): Partial<BindingStruct> {
    const { reverseTunnel, neighbours } = this.forwarding;
    const next_hop = neighbours.known(home.address);
    // what it says to its home itself goes there in a tunnel in any case
    return { egress: reverseTunnel ? Egress.tunnel : Egress.open, ...this.tunnelTo(home), next_hop };
  }

  /** The outer header leaves from this node's own address of the other end's family. */
  private tunnelTo({ name, address }: NodeName): Partial<BindingStruct> {
    const source = this.forwarding.addresses.find((own) => isIPv6(own) === isIPv6(address));
    if (source === undefined) throw new BugError(`no address to tunnel to ${address} from`); // the configuration's check
    return {
      ...tunnelFields({ to: address, encapsulation: this.forwarding.encapsulationTo(name) }),
      node: encodeAddress(source),
    };
  }

  /** While its packets are parked: what comes from that node in a reverse tunnel is the process, now that it runs there. */
  believe(node: NodeName): void {
    if (!this.fenced) this.change({ care_of: encodeAddress(node.address) });
  }

  /** To the local stack, parked packets first. */
  async pass(): Promise<ParkCounts> {
    return this.flip({ action: Action.pass, egress: Egress.open });
  }

  /** Removes everything that the binding has on this node. */
  async remove(): Promise<void> {
    this.unwatch?.();
    const { datapath } = this.forwarding;
    const binding = datapath.tables.bindings.get(this.id);
    datapath.tables.unbind(this.id);
    this.closeQueue(binding?.egress === Egress.hold);
    datapath.tables.removeBinding(this.id);
    if (binding !== undefined && binding.pod_ifindex !== 0) datapath.removeDevice(binding.pod_ifindex);
  }

  /**
   * Changes the action and lets the parked packets go: while `draining`, the programs park every new packet behind those
   * that still wait, so that none overtakes; then the queue is taken away.
   */
  private async flip(change: Partial<BindingStruct>): Promise<ParkCounts> {
    this.unwatch?.();
    this.unwatch = undefined;
    const { queue } = this;
    if (queue === undefined) {
      this.change({ ...change, draining: 0, hold: Hold.nothing, park_ifindex: 0 });
      return { parked: 0, replayed: 0, dropped: 0 };
    }
    this.change({ ...change, draining: 1, hold: Hold.nothing });
    const first = await queue.replay();
    this.change({ draining: 0 });
    // A packet that was on its way into the queue at the moment of the change.
    const last = await queue.replay();
    const replayed = first.replayed + last.replayed;
    const parked = Number(this.forwarding.datapath.tables.parkStates.get(this.id)?.parked ?? 0n);
    this.change({ park_ifindex: 0 });
    this.closeQueue();
    return { parked, replayed, dropped: Math.max(0, parked - replayed) };
  }

  /** @param unsaid what waits was said by a copy that never became the process */
  private closeQueue(unsaid = false): void {
    this.queue?.close(unsaid);
    this.queue = undefined;
    this.forwarding.queues.delete(String(this.id));
  }

  /** Rewrites the binding whenever the next hop of the node that it tunnels to is another than the binding has. */
  private follow(to: NodeName): void {
    this.unwatch?.();
    const { datapath, neighbours } = this.forwarding;
    const present = datapath.tables.bindings.get(this.id)?.next_hop ?? NO_WAY;
    this.unwatch = neighbours.watch(to.address, present, (next) => {
      if (!this.fenced) this.change({ next_hop: next });
    });
  }

  private get exists(): boolean {
    return this.forwarding.datapath.tables.bindings.get(this.id) !== undefined;
  }

  private change(change: Partial<BindingStruct>): void {
    const { tables } = this.forwarding.datapath;
    const present = tables.bindings.get(this.id);
    if (present === undefined) return; // removed meanwhile, by a rollback
    if (present.epoch > this.epoch) throw fenced(this.id, present.epoch, this.epoch);
    tables.putBinding(this.id, { ...present, ...change, epoch: this.epoch });
  }
}

/** The answer of a binding that has heard of a newer epoch than whoever wants to change it. */
export function fenced(binding: number, newer: number, older: number): UserError {
  return new UserError({
    code: 'FENCED',
    message: `binding ${binding} is at epoch ${newer}: what is at epoch ${older} may not change it`,
    remedy: 'the process runs elsewhere: `homeproxy ps` on its home says where',
    exitStatus: 3,
  });
}

function freeId(entries: Iterable<[number, unknown]>): number {
  const used = new Set([...entries].map(([id]) => id));
  let id = 1;
  while (used.has(id)) id++;
  return id;
}
