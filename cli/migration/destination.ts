import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Line } from '../../addon/lib/index.js';
import { criuVersion, findCriu } from '../checkpoint/criu.js';
import { CriuSession } from '../checkpoint/criu-session.js';
import { scatter } from '../checkpoint/freezer.js';
import { readWindows, restoreWindows } from '../checkpoint/half-closed.js';
import { reserveRoom } from '../checkpoint/image-folder.js';
import { keepTimers } from '../checkpoint/timers.js';
import type { UserError } from '../errors.js';
import { pagerVerdicts } from '../memory/later-refusals.js';
import { Cgroup } from '../system/cgroup.js';
import { ownSession } from '../system/priority.js';
import {
  type Arrival,
  copyLost,
  gaveUp,
  homeNursery,
  limitOf,
  NEW_ARRIVAL,
  notExpected,
  optionsOf,
  refuseStale,
  roomOf,
} from './arrival.js';
import { makeReady } from './arrival-ready.js';
import { restoreOptions } from './carried-options.js';
import { closeDoorOf, filesArrived, filesFit, putBack, takeOffer, takeParcel } from './carrying.js';
import { askRestored, noteRestored } from './connection-notes.js';
import { requireCredible, requireOwnPlaces } from './credible.js';
import { fateOf } from './decision.js';
import { holdingOf } from './holding.js';
import { HomeListeners } from './home-listeners.js';
import { decodeImages, keepAhead } from './image-stream.js';
import {
  type AssessRequest,
  type AssessResponse,
  type DestinationParticipant,
  type FenceRequest,
  type Holding,
  MAX_AHEAD_BYTES,
  type MigrationRequest,
  type NodeName,
  type PrepareDestinationRequest,
  type PrepareDestinationResponse,
  type RestoreRequest,
  type RestoreResponse,
} from './messages.js';
import { OnceAtATime } from './once-at-a-time.js';
import { requirePager, takeLater, untilWhole, wipeArrival } from './paging.js';
import type { ArrivalRecord } from './records.js';
import { outOfOrder } from './refusals.js';
import { fitVerdicts, roomVerdicts } from './room-verdicts.js';
import type { Site } from './site.js';
import { reached } from './steps.js';
import { underway } from './underway.js';

/** The destination's part of a migration, on the node that the process goes to. */
export class LocalDestination implements DestinationParticipant {
  private readonly arrivals = new Map<string, Arrival>();
  /** Migrations that were aborted: a request of theirs that was on its way meanwhile comes too late. */
  private readonly aborted = new Set<string>();
  private readonly acts = new OnceAtATime();

  constructor(private readonly site: Site) {}

  get node(): NodeName {
    return this.site.node;
  }

  /** Takes up the arrivals of the journal after a restart. Held ones stay so: only the coordinator decides. */
  adopt(): void {
    for (const record of this.site.journal.arrivals.all()) {
      const { criu, images, request } = record;
      const session = CriuSession.adopt({ verb: 'restore', process: criu, images });
      const resident = this.site.residents.find(request.twin);
      this.arrivals.set(request.migration, { ...NEW_ARRIVAL, record, session, resident });
      if (record.outcome === 'running') this.finish(request).catch(() => undefined); // decided: nobody needs to ask
    }
  }

  /** The home node of the process that comes in a migration; undefined when none of that name is known. */
  homeOf(migration: string): string | undefined {
    return this.arrivals.get(migration)?.record.request.home.name;
  }

  async fence({ twin, epoch }: FenceRequest): Promise<void> {
    this.site.residents.fence(twin, epoch);
  }

  /** @param home whose processes; default this node's own. */
  async holding(home = this.node.name): Promise<Holding> {
    return holdingOf(this.site, home);
  }

  async assess({ home, description, needs, twin, carried }: AssessRequest): Promise<AssessResponse> {
    const criu = await criuVersion(findCriu(this.site.criuPath));
    const { imageRoot, journal } = this.site;
    const room = { returning: home.name === this.node.name, draining: journal.draining, imageRoot, criu };
    const files =
      carried === undefined
        ? undefined
        : await filesFit(this.site, { needs, carried, twin, returning: room.returning });
    const welcome = room.returning ? [] : this.site.guests.verdicts(home.name, description);
    return { verdicts: [...welcome, ...(await fitVerdicts(description, needs, room, files))] };
  }

  async prepare(request: PrepareDestinationRequest): Promise<PrepareDestinationResponse> {
    const { migration } = request;
    const paging = request.later === true ? await pagerVerdicts() : [];
    if (this.arrivals.has(migration)) throw outOfOrder(migration, 'is prepared already');
    if (this.aborted.has(migration)) throw gaveUp(migration);
    const criu = findCriu(this.site.criuPath);
    const returning = request.home.name === this.node.name;
    if (!returning) requireCredible(this.site.nodes, request);
    if (!returning) refuseStale(this.site, request);
    const welcome = returning ? [] : this.site.guests.verdicts(request.home.name, request.description);
    const room = { returning, draining: this.site.journal.draining, carried: request.carry === true };
    const verdicts = [...welcome, ...roomVerdicts(request.description, room), ...paging];
    if (verdicts.some(({ outcome }) => outcome === 'refused')) return { verdicts };
    const record: ArrivalRecord = {
      request,
      images: join(this.site.imageRoot, `${migration}-restore`),
      nursery: returning ? homeNursery(request) : { path: '', origins: [] },
      criu: undefined,
      received: false,
      outcome: 'held',
    };
    const arrival: Arrival = { ...NEW_ARRIVAL, record };
    this.keep(arrival, {});
    arrival.preparing = makeReady(this.site, arrival, criu, (change) => this.keep(arrival, change));
    try {
      await arrival.preparing;
    } catch (error) {
      arrival.preparing = undefined;
      await this.abort(request);
      throw error;
    }
    arrival.preparing = undefined;
    return { verdicts, later: request.later, together: true };
  }

  /**
   * Takes memory that `peer` sends before the freeze. @returns how much of it is kept, in bytes.
   * @throws {UserError} as {@link receive}
   */
  async receiveAhead(peer: string, migration: string, pages: AsyncIterable<Buffer>): Promise<number> {
    const arrival = this.expect(peer, migration);
    const bytes = await keepAhead(pages, arrival.record.images, MAX_AHEAD_BYTES);
    if (!this.arrivals.has(migration)) throw gaveUp(migration);
    // CRIU carries all after all: its writes cannot be tracked
    if (arrival.memory !== undefined) await reserveRoom(arrival.record.images, roomOf(arrival.record.request));
    await reached('destination', 'ahead-received', migration);
    return bytes;
  }

  /** Takes the list of the files that will come. @returns the places in it of those that this node lacks. @throws as {@link receive} */
  async receiveOffer(peer: string, migration: string, list: AsyncIterable<Buffer>): Promise<number[]> {
    return await takeOffer(this.expect(peer, migration), list);
  }

  async receiveFiles(peer: string, migration: string, parcel: AsyncIterable<Buffer>): Promise<void> {
    const arrival = this.expect(peer, migration, true); // the last files come while images do
    await takeParcel(arrival, parcel, this.site.carry.maxBytes);
    if (!this.arrivals.has(migration)) throw gaveUp(migration);
  }

  /** Takes memory that `peer` sends before and in the freeze. @throws {UserError} as {@link receive}, `MEMORY_REFUSED` */
  async receiveMemory(peer: string, migration: string, line: Line): Promise<void> {
    const { memory, session } = this.expect(peer, migration);
    if (memory === undefined || session === undefined) throw notExpected(this.node, peer, migration);
    await memory.take(line, session, underway('destination', 'memory-underway', migration));
  }

  /** Takes memory that `peer` sends when the process runs. @throws {UserError} as {@link receive}, `PAGER_LOST` */
  async receiveLater(peer: string, migration: string, line: Line): Promise<void> {
    const came = await takeLater(this.arrivals.get(migration), peer, line, () => this.ranHere(migration));
    if (!came) throw notExpected(this.node, peer, migration);
  }

  private expect(peer: string, migration: string, whileReceiving = false): Arrival {
    const arrival = this.arrivals.get(migration);
    const free = whileReceiving || arrival?.receiving === false;
    const expected = arrival?.record.request.source.name === peer && free && !this.aborted.has(migration);
    if (arrival !== undefined && expected) return arrival;
    throw notExpected(this.node, peer, migration);
  }

  /** Takes the images that `peer` sends. @throws {UserError} `NOT_EXPECTED` unless it is this migration's source. */
  async receive(peer: string, migration: string, images: AsyncIterable<Buffer>): Promise<void> {
    const arrival = this.expect(peer, migration);
    arrival.receiving = true;
    arrival.memory?.hurry();
    ownSession.hurry(migration);
    await reached('destination', 'receiving', migration);
    const inventory = await decodeImages(images, arrival.record.images, limitOf(arrival.record.request));
    if (!this.arrivals.has(migration)) throw gaveUp(migration);
    keepTimers(arrival.record.images);
    if (arrival.session !== undefined) await arrival.memory?.complete(arrival.record.images, arrival.session);
    this.keep(arrival, { received: true });
    await filesArrived(arrival, (change) => this.keep(arrival, change));
    await reached('destination', 'received', migration);
    if (arrival.resident === undefined) arrival.listeners = HomeListeners.take(arrival.record);
    await arrival.session?.release(inventory);
    arrival.windows = readWindows(arrival.record.images); // while CRIU restores
    arrival.options = optionsOf(arrival);
    for (const read of [arrival.windows, arrival.options]) read.catch(() => undefined); // heard when it has
    await reached('destination', 'restoring', migration);
  }

  async restore({ migration, ports, flows }: RestoreRequest): Promise<RestoreResponse> {
    const arrival = this.arrivals.get(migration);
    if (arrival?.session === undefined || !arrival.record.received) throw outOfOrder(migration, 'has no images');
    const { session, record, resident } = arrival;
    if (resident !== undefined) {
      requireOwnPlaces(resident.home.name, resident.description.homeAddresses, { ports, flows });
      resident.control.claim({ ports, flows });
    }
    await session.reached('post-restore', this.site.timeouts.restoreMs);
    requirePager(arrival);
    const tasks = new Cgroup(record.nursery.path).processes();
    if (resident !== undefined) this.site.guests.require(resident.home.name, tasks);
    askRestored(arrival, tasks);
    arrival.listeners?.requireNoOther(tasks);
    const notKept = [
      ...restoreOptions(await (arrival.options ?? optionsOf(arrival)), tasks, arrival.listeners?.inodes),
      ...restoreWindows(await (arrival.windows ?? readWindows(record.images)), tasks),
    ];
    arrival.listeners?.close(); // the process has them too
    arrival.notKept = notKept;
    await reached('destination', 'restored', migration);
    return { notKept };
  }

  /**
   * Lets the copy here speak, hear and run. It is heard only when nothing can stop it from running any more: what it had
   * acknowledged before could not be taken back.
   * @throws {UserError} `COPY_LOST`: it never ran and never will, because CRIU ended before the tasks were let go. The answer
   * stays the same until the abort.
   */
  async commit({ migration }: MigrationRequest): Promise<void> {
    await this.acts.run(`commit ${migration}`, () => this.becomeTheProcess(migration));
    pause(this.site.timeouts.commitMs, undefined, { ref: false }) // should the coordinator not say that it is over
      .then(() => this.finish({ migration }))
      .catch(() => undefined); // the record stays, and the next daemon tries again
  }

  private async becomeTheProcess(migration: string): Promise<void> {
    const arrival = this.arrivals.get(migration);
    if (arrival === undefined) {
      if (this.ranHere(migration)) return; // committed before: the answer was lost
      throw copyLost([]);
    }
    if (arrival.runs) return; // the answer was lost
    const { session } = arrival;
    const evidence = {
      restored: session?.passed('post-restore') === true,
      certain: session?.passed('pre-resume') === true,
    };
    const fate = fateOf(arrival.record.outcome, evidence);
    if (fate === 'lost') throw await this.lost(arrival);
    if (fate === 'release') await this.release(arrival);
    await this.letRun(arrival);
  }

  async abort({ migration }: MigrationRequest): Promise<void> {
    return this.acts.run(`abort ${migration}`, () => this.giveUp(migration));
  }

  private async giveUp(migration: string): Promise<void> {
    this.aborted.add(migration);
    const arrival = this.arrivals.get(migration);
    await arrival?.preparing?.catch(() => undefined);
    if (arrival !== undefined && this.arrivals.has(migration)) await this.remove(arrival);
  }

  /** Lets CRIU finish what it has restored; it stops once more when the tasks are certain to run. */
  private async release(arrival: Arrival): Promise<void> {
    const { session, record } = arrival;
    const { migration } = record.request;
    await arrival.streams; // they can be asked until CRIU goes on
    session?.go('post-restore');
    await reached('destination', 'released', migration);
    try {
      await session?.reached('pre-resume', this.site.timeouts.restoreMs);
    } catch {
      throw await this.lost(arrival);
    }
    await reached('destination', 'about-to-run', migration);
  }

  private async letRun(arrival: Arrival): Promise<void> {
    const { session, record } = arrival;
    const { migration, twin } = record.request;
    if (record.outcome !== 'running') {
      this.site.journal.transaction(() => {
        this.keep(arrival, { outcome: 'running' });
        if (arrival.resident !== undefined) arrival.resident = this.site.residents.confirm(arrival.resident);
      });
    }
    await reached('destination', 'confirmed', migration);
    const delivered = arrival.resident?.control.deliver(arrival.resident.home); // what waits for it goes out first
    if (arrival.resident === undefined) this.site.twins.byId(twin)?.control.openEgress();
    await reached('destination', 'speaks', migration);
    arrival.whole = untilWhole(this.site, arrival);
    session?.go('pre-resume');
    await Promise.all([session?.resumed(this.site.timeouts.restoreMs), delivered]);
    arrival.runs = true;
    await reached('destination', 'runs', migration);
  }

  /** What can wait until packets reach the process again: to remove 10 MB of images takes up to 18 ms (measured). */
  async finish({ migration }: MigrationRequest): Promise<void> {
    return this.acts.run(`finish ${migration}`, () => this.cleanUp(migration));
  }

  private async cleanUp(migration: string): Promise<void> {
    const arrival = this.arrivals.get(migration);
    if (arrival === undefined) return; // finished before: the answer was lost
    if (arrival.record.outcome !== 'running') throw outOfOrder(migration, 'is not over');
    if (!arrival.runs) await this.commit({ migration }); // a restart fell between
    await arrival.session?.end(this.site.timeouts.restoreMs); // it lets go of as much memory as it has brought
    if (arrival.resident === undefined) scatter(arrival.record.nursery);
    closeDoorOf(this.site, arrival);
    await noteRestored(this.site, arrival);
    await arrival.whole; // the source may have to be told
    if (arrival.record.request.later === true) await reached('destination', 'memory-complete', migration);
    wipeArrival(arrival.record);
    await reached('destination', 'wiped', migration);
    this.forget(migration);
    await reached('destination', 'forgotten', migration);
  }

  /** A migration that this node has no arrival of (any more) ended well here; at home the journal holds the decision. */
  private ranHere(migration: string): boolean {
    if (this.site.journal.migrations.get(migration) !== undefined) return true;
    return this.site.residents.all().some(({ record }) => record.migration === migration && record.state === 'running');
  }

  private async lost(arrival: Arrival): Promise<UserError> {
    const log = arrival.session?.failure().log ?? [];
    if (arrival.record.outcome !== 'lost') this.keep(arrival, { outcome: 'lost' });
    await arrival.session?.kill();
    return copyLost(log);
  }

  /** A copy that was not committed is in repair mode or cannot be heard: its death says nothing to anybody. */
  private async remove(arrival: Arrival): Promise<void> {
    const { session, resident, record } = arrival;
    const { migration } = record.request;
    if (session?.passed('post-restore') === true) {
      session.stop();
      await session.end(this.site.timeouts.restoreMs);
    } else await session?.kill();
    arrival.listeners?.close();
    await reached('destination', 'cancelled', migration);
    const nursery = new Cgroup(record.nursery.path);
    if (resident === undefined && record.nursery.path !== '' && nursery.exists) {
      nursery.kill(); // what a CRIU that was killed half way has left
      await nursery.empty();
      nursery.remove();
    }
    putBack(arrival);
    if (resident !== undefined) await this.site.residents.remove(resident);
    wipeArrival(record);
    await reached('destination', 'removed', migration);
    this.forget(migration);
  }

  private keep(arrival: Arrival, change: Partial<ArrivalRecord>): void {
    arrival.record = { ...arrival.record, ...change };
    const { migration } = arrival.record.request;
    this.arrivals.set(migration, arrival);
    this.site.journal.arrivals.put(migration, arrival.record);
  }

  private forget(migration: string): void {
    ownSession.calm(migration);
    this.arrivals.delete(migration);
    this.site.journal.arrivals.delete(migration);
  }
}
