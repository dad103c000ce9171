import { randomBytes } from 'node:crypto';
import type { Listener, ProcessDescription } from '../process/description.js';
import { readLabels } from '../process/labels.js';
import { Cgroup } from '../system/cgroup.js';
import { readUid } from '../system/procfs.js';
import { BindingControl, type Forwarding } from './binding-control.js';
import type { Journal } from './journal.js';
import type { Carry } from './messages.js';
import type { PortLeases } from './port-leases.js';
import type { TwinRecord } from './records.js';

/** What stands in at home for a process that is away, or about to leave: its binding and its durable record. */
export class Twin {
  constructor(
    public record: TwinRecord,
    readonly control: BindingControl,
  ) {}

  get id(): string {
    return this.record.twin;
  }
  get homePid(): number {
    return this.record.description.homePid;
  }
}

type RebuiltTwin = Pick<TwinRecord, 'twin' | 'description' | 'epoch' | 'location' | 'block' | 'carry'>;

/** The twins of a home node, by the home pids of their processes. */
export class Twins {
  private readonly byPid = new Map<number, Twin>();

  constructor(
    private readonly journal: Journal,
    private readonly forwarding: Forwarding,
    private readonly leases: PortLeases,
  ) {}

  /** Takes up what the journal says, after a restart: maps and pins have forwarded on without us. */
  async adopt(): Promise<void> {
    this.leases.adopt(new Set(this.journal.twins.all().map(({ twin }) => twin)));
    await this.forwarding.datapath.useLoopback(this.journal.twins.ids().length > 0);
    for (const record of this.journal.twins.all()) {
      const control = await BindingControl.adopt(this.forwarding, record, record.location);
      this.byPid.set(record.description.homePid, new Twin(record, control));
    }
  }

  all(): Twin[] {
    return [...this.byPid.values()];
  }

  find(homePid: number): Twin | undefined {
    return this.byPid.get(homePid);
  }

  /** The twin of that name. */
  byId(id: string): Twin | undefined {
    return this.all().find((twin) => twin.id === id);
  }

  /** A twin for a process that still runs here as an ordinary one: its packets pass. */
  async create(description: ProcessDescription, carry?: Carry): Promise<Twin> {
    const { node } = this.forwarding;
    const id = `${node.name}-${description.homePid}-${randomBytes(3).toString('hex')}`;
    const block = this.leases.lease(id, this.departedPorts());
    const control = await this.bind(id, { description, epoch: 1, block });
    const uid = readUid(description.homePid);
    const labels = readLabels(description.homePid);
    const record: TwinRecord = {
      twin: id,
      description,
      binding: control.id,
      location: node,
      epoch: 1,
      departedAt: Date.now(),
      cgroup: Cgroup.of(description.homePid).path,
      ...(uid === undefined ? {} : { uid }),
      ...(Object.keys(labels).length === 0 ? {} : { labels }),
      ...(block === undefined ? {} : { block }),
      ...(carry === undefined ? {} : { carry }),
    };
    const twin = new Twin(record, control);
    this.journal.twins.put(record.twin, record);
    this.byPid.set(description.homePid, twin);
    return twin;
  }

  /** Before the first process is away: correspondents of this node itself are heard. While all are here they need nobody. */
  async watchLoopback(): Promise<void> {
    await this.forwarding.datapath.useLoopback(true);
  }

  /** The process is here, and no other is away: to take the program off `lo` takes 20 ms (tcx_entry_sync). */
  async leaveLoopback(twin: Twin): Promise<void> {
    if (this.all().every((each) => each === twin)) await this.forwarding.datapath.useLoopback(false);
  }

  /** Stands in again for a process that lives elsewhere and of which this node's memory was lost. */
  async rebuild({ twin: id, description: said, epoch: told, location, block, carry }: RebuiltTwin): Promise<Twin> {
    const left = this.bindingOf(said);
    const description = { ...said, listening: this.corroborated(said, left) };
    if (block !== undefined) this.leases.take(id, block);
    await this.forwarding.datapath.useLoopback(true);
    // An attempt that was rolled back may have raised the epoch here, and nowhere else.
    const epoch = left === undefined ? told : Math.max(told, this.epochOf(left));
    const control =
      left === undefined
        ? await this.bind(id, { description, epoch, block })
        : await BindingControl.adopt(this.forwarding, { binding: left, epoch }, undefined);
    const record: TwinRecord = {
      twin: id,
      description,
      binding: control.id,
      location,
      epoch,
      departedAt: Date.now(),
      cgroup: '',
      ...(block === undefined ? {} : { block }),
      ...(carry === undefined ? {} : { carry }),
    };
    const twin = new Twin(record, control);
    this.journal.twins.put(id, record);
    this.byPid.set(description.homePid, twin);
    control.raise(epoch);
    await control.tunnel(location);
    return twin;
  }

  /** @throws what `BindingControl.create` throws; then the lease has ended. */
  private async bind(
    id: string,
    made: Omit<Parameters<typeof BindingControl.create>[1], 'state'>,
  ): Promise<BindingControl> {
    try {
      return await BindingControl.create(this.forwarding, { ...made, state: 'home' });
    } catch (error) {
      this.leases.release(id);
      throw error;
    }
  }

  /** Of the processes that are away: no socket of this node has them. */
  private departedPorts(): number[] {
    return this.all().flatMap(({ record }) => record.description.ports.map(({ port }) => port));
  }

  /** Nothing is forwarded any more. */
  endLeases(): void {
    this.leases.releaseAll();
  }

  private epochOf(binding: number): number {
    return this.forwarding.datapath.tables.bindings.get(binding)?.epoch ?? 0;
  }

  /** A binding in the kernel that still has the ports of a process, though no record names it. */
  private bindingOf({ ports }: ProcessDescription): number | undefined {
    const named = new Set(this.all().map(({ record }) => record.binding));
    const { tables } = this.forwarding.datapath;
    const wanted = new Set(ports.map(({ protocol, address, port }) => `${protocol} ${address} ${port}`));
    return [...tables.bindings.entries()]
      .map(([id]) => id)
      .find(
        (id) =>
          !named.has(id) &&
          tables.portsOf(id).some(({ protocol, address, port }) => wanted.has(`${protocol} ${address} ${port}`)),
      );
  }

  /** Its listeners; names of those that stayed here are a host's word, which counts for ports that the kernel still says it has. */
  private corroborated({ listening }: ProcessDescription, binding: number | undefined): Listener[] {
    const ports = binding === undefined ? [] : this.forwarding.datapath.tables.portsOf(binding);
    return listening.map(({ cookie, ...listener }) =>
      cookie !== undefined && ports.some(({ protocol, port }) => protocol === 'tcp' && port === listener.port)
        ? { ...listener, cookie }
        : listener,
    );
  }

  /** Records durably where the process is, and under which epoch. */
  update(twin: Twin, change: Partial<Pick<TwinRecord, 'location' | 'epoch' | 'departedAt' | 'description'>>): void {
    twin.record = { ...twin.record, ...change };
    this.journal.twins.put(twin.id, twin.record);
  }

  /** The process is an ordinary one of this node again, or has ended. */
  async remove(twin: Twin): Promise<void> {
    // The record first: the binding's number may be given away as soon as it is gone. What a crash leaves, a restart sweeps.
    this.journal.twins.delete(twin.id);
    this.journal.carried.delete(twin.id);
    this.byPid.delete(twin.homePid);
    await twin.control.remove();
    await this.leaveLoopback(twin);
    this.leases.release(twin.id); // what it opened while it was away are ordinary sockets of this node by now
  }
}
