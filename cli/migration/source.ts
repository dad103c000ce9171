import { criuVersion, findCriu } from '../checkpoint/criu.js';
import { CriuSession } from '../checkpoint/criu-session.js';
import { PagePipe } from '../checkpoint/page-pipe.js';
import { Throttle } from '../checkpoint/throttle.js';
import { isInBlock } from '../forwarding/port-block.js';
import type { CopyProgress } from '../memory/carried.js';
import { closingVerdicts } from '../process/closing-connections.js';
import { examineProcess } from '../process/examine.js';
import { inspectProcess } from '../process/inspect.js';
import { sharedMemoryFindings } from '../process/shared-memory.js';
import { urgentVerdicts } from '../process/urgent-data.js';
import { Cgroup } from '../system/cgroup.js';
import { ownSession } from '../system/priority.js';
import { noteSockets } from './carried-options.js';
import { type FilesRoad, filesOf, wouldCarry } from './carrying.js';
import { awaitTaken } from './closing.js';
import { copyAhead, withThrottle } from './copy-ahead.js';
import { controlOf, type Departure, holdAfterKill, IDLE, NONE, settled, tooLate } from './departure.js';
import { destroyCopy, letRunOn } from './departure-end.js';
import { makeReady, newDeparture } from './departure-ready.js';
import {
  emptyDatagramQueues,
  finishHandshakes,
  hearsDatagrams,
  nothingUnderway,
  requireSamePorts,
  requireSaved,
  usesSysv,
} from './drain.js';
import type {
  CopyRequest,
  DrainResponse,
  FreezeRequest,
  FreezeResponse,
  InspectRequest,
  InspectResponse,
  MigrationRequest,
  NodeName,
  ParkCounts,
  PrepareSourceRequest,
  ResidentRequest,
  SourceParticipant,
  TransferResponse,
} from './messages.js';
import { OnceAtATime } from './once-at-a-time.js';
import { type Kept, keptOf, laterPages } from './paging.js';
import type { DepartureRecord } from './records.js';
import { outOfOrder, refuse, stillRuns, unknownMigration } from './refusals.js';
import type { Resident } from './residents.js';
import { type ImageRoad, Sending } from './sending.js';
import { copyObjects, listObjects } from './shared-objects.js';
import { sharedAsAtHome } from './shared-ports.js';
import type { Site } from './site.js';
import { standStill } from './stand-still.js';
import { requireSameStay } from './staying-listeners.js';
import { reached } from './steps.js';
import { subjectOf } from './subject.js';

/** The source's part of a migration, on the node where the process runs. */
export class LocalSource implements SourceParticipant {
  private readonly departures = new Map<string, Departure>();
  /** Migrations that were aborted: a request of theirs that was on its way meanwhile comes too late. */
  private readonly aborted = new Set<string>();
  private readonly acts = new OnceAtATime();

  constructor(
    private readonly site: Site,
    private readonly road: ImageRoad & FilesRoad,
  ) {}

  get node(): NodeName {
    return this.site.node;
  }

  /** Takes up the departures of the journal after a restart. They stand where they stood; only the coordinator decides. */
  adopt(): void {
    for (const record of this.site.journal.departures.all()) {
      const { migration, twin } = record.request;
      const session = CriuSession.adopt({ verb: 'dump', process: record.criu, images: record.images });
      const resident = this.site.residents.find(twin);
      if (record.throttle !== undefined) Throttle.adopt(record.freezer.path, record.throttle);
      const pages = PagePipe.adopt(record.images);
      pages?.discard(); // a CRIU that was about to dump waits for a reader: it must get on to the hook where it is told to stop
      const later = laterPages(this.site, this.road, record);
      this.departures.set(migration, { ...IDLE, record, session, pages, resident, later });
    }
  }

  /** Copies that are kept here because what runs elsewhere lacks some of their memory. */
  kept(): Kept[] {
    return keptOf(this.departures.values());
  }

  /** The home node of the process that leaves in a migration; undefined when none of that name is known. */
  homeOf(migration: string): string | undefined {
    return this.departures.get(migration)?.record.home;
  }

  async inspect({ pid, twin, carry, resetClosing }: InspectRequest): Promise<InspectResponse> {
    const resident = twin === undefined ? undefined : this.site.residents.require(twin);
    const [root, options] = subjectOf(this.site, pid, resident);
    const [{ verdicts, needs, ...found }, closing] = await Promise.all([
      examineProcess(root, options),
      resident === undefined ? [] : closingVerdicts(root, resetClosing), // at home its kernel brings them to their end
    ]);
    const criu = await criuVersion(findCriu(this.site.criuPath));
    const files = carry === undefined ? { verdicts: [] } : await wouldCarry(this.site, root, carry, resident);
    return { ...found, ...files, verdicts: [...verdicts, ...closing, ...files.verdicts], needs: { ...needs, criu } };
  }

  async discard({ twin }: ResidentRequest): Promise<void> {
    const resident = this.site.residents.find(twin);
    if (resident === undefined) return;
    if (resident.runs) throw stillRuns(this.node, twin);
    await this.site.residents.remove(resident, true);
  }

  async prepare(request: PrepareSourceRequest): Promise<void> {
    const { migration } = request;
    if (this.departures.has(migration)) throw outOfOrder(migration, 'is prepared already');
    if (this.aborted.has(migration)) throw tooLate(migration);
    const resident = this.site.residents.find(request.twin);
    const { localPids, description } = this.look(request.pid, resident);
    const criu = findCriu(this.site.criuPath);
    const record = await newDeparture(this.site, request, resident, { localPids, description });
    const departure: Departure = { ...IDLE, record, session: undefined, pages: undefined, resident };
    this.keep(departure, {});
    departure.preparing = makeReady(this.site, this.road, departure, {
      criu,
      description,
      keep: (change) => this.keep(departure, change),
    });
    try {
      await departure.preparing;
    } catch (error) {
      departure.preparing = undefined;
      await this.abort(request);
      throw error;
    }
    departure.preparing = undefined;
  }

  async carry({ migration }: MigrationRequest): Promise<TransferResponse> {
    const departure = this.require(migration);
    departure.files = filesOf(this.site, this.road, () => departure.record, departure.resident);
    const bytes = await departure.files.sendAhead();
    await reached('source', 'files-sent', migration);
    return { bytes };
  }

  async sendAhead(request: CopyRequest): Promise<TransferResponse> {
    const departure = this.require(request.migration);
    const { road, site } = this;
    return await copyAhead(road, site, departure, request, (throttle) => this.keep(departure, { throttle }));
  }

  async progress({ migration }: MigrationRequest): Promise<CopyProgress> {
    const { later, memory } = this.require(migration);
    return later?.progress ?? memory?.progress ?? { round: 0, bytes: 0, total: 0, rate: 0 };
  }

  /**
   * Waits until handshakes that had begun are over and the process has accepted them: CRIU cannot carry a listener's queue
   * nor half-open connections. New SYNs are held back, so it must end, unless the process does not accept.
   */
  async drain({ migration }: MigrationRequest): Promise<DrainResponse> {
    const departure = this.require(migration);
    const { record, resident } = departure;
    ownSession.hurry(migration);
    const control = controlOf(this.site, departure);
    const early = control !== undefined && !hearsDatagrams(record.localPids);
    if (early) control.holdDatagrams();
    else resident?.control.holdNew();
    try {
      const { waitedMs, unfinished } = await finishHandshakes(record, this.site.timeouts.drainMs);
      departure.slow = unfinished;
      if (resident !== undefined) departure.lost = await awaitTaken(record, this.site.timeouts.drainMs - waitedMs);
      const { description, verdicts, localPids } = this.look(record.request.pid, resident);
      refuse(record.request.pid, [...verdicts, ...sharedMemoryFindings(localPids).verdicts]);
      requireSameStay(record, description.listening);
      this.keep(departure, { localPids, ports: description.ports.map(({ port }) => port) });
      departure.drained = description;
      const inBlock = (port: number): boolean => record.block !== undefined && isInBlock(record.block, port);
      departure.quiet =
        early && nothingUnderway(description, localPids, (port) => inBlock(port.port) || control.has(port));
      resident?.control.claim(sharedAsAtHome(resident.description, description)); // another guest may share its ports
      return { waitedMs, description };
    } finally {
      await reached('source', 'drained', migration);
    }
  }

  /** Stops the process and dumps it; its memory is on the way to the destination meanwhile. */
  async freeze({ migration, together = false }: FreezeRequest): Promise<FreezeResponse> {
    const departure = this.require(migration);
    const { record, session, pages, ahead, resident } = departure;
    if (session === undefined || pages === undefined) throw outOfOrder(migration, 'is not prepared');
    controlOf(this.site, departure)?.holdDatagrams();
    await reached('source', 'datagrams-held', migration);
    const requireNothingCame = await emptyDatagramQueues(record, this.site.timeouts.drainMs, departure.quiet);
    if (departure.reverting) throw tooLate(migration);
    const pid = record.localPids[0] ?? 0;
    const load = { to: record.request.destination, migration, folder: record.images, together, pages, ahead, pid };
    session.go('pre-dump');
    const sending = new Sending(this.road, load); // CRIU needs some milliseconds to the first page
    departure.sending = sending;
    await reached('source', 'dumping', migration);
    const stood = await sending.unlessItFails(standStill(departure, session, controlOf(this.site, departure)));
    const { freezeMs, transferMs } = this.site.timeouts;
    const noted = noteSockets(record, departure.defaults); // on another thread: nothing may wait for it in the end
    const copied = noted.then((sockets) => copyObjects(record, resident !== undefined, sockets));
    for (const beside of [noted, copied]) beside.catch(() => undefined); // heard when the dump is over
    const ours = await requireNothingCame(departure.slow); // while CRIU dumps: the process stands still and so do its sockets
    refuse(record.request.pid, urgentVerdicts(record.localPids, { ours }));
    // CRIU goes no faster than the network takes the pages
    const dump = session.reached('post-dump', freezeMs + transferMs).catch(async (error: unknown) => {
      if ((await settled(session.exited)) === null && !departure.reverting) holdAfterKill(record);
      throw error;
    });
    await sending.unlessItFails(dump);
    await reached('source', 'dumped', migration);
    departure.memory?.finishDump(record.images);
    requireSamePorts(record, await noted);
    const sysv = await requireSaved(record);
    if (usesSysv({ sysv })) this.keep(departure, { sysv });
    const sharedObjects = listObjects(record, await copied);
    if (sharedObjects.length > 0) this.keep(departure, { sharedObjects });
    if (departure.reverting) throw tooLate(migration);
    new Cgroup(record.freezer.path).setFrozen(true);
    await reached('source', 'frozen', migration);
    if (record.request.carry !== undefined) {
      if (departure.files === undefined) throw tooLate(migration); // the daemon was started again meanwhile
      await sending.unlessItFails(departure.files.sendRest());
      await reached('source', 'files-complete', migration);
    }
    sending.complete();
    return stood;
  }

  /** Ends when the destination has all images. */
  async transfer({ migration }: MigrationRequest): Promise<TransferResponse> {
    const departure = this.require(migration);
    const { sending, memory, memorySent, carried, pace } = departure;
    if (sending === undefined) throw tooLate(migration); // the daemon was started again meanwhile
    const bytes = (await sending.delivered) + ((await memory?.sent(memorySent)) ?? 0);
    if (memory !== undefined && memory.later > 0 && !departure.reverting) {
      this.keep(departure, { later: { bandwidthLimit: pace, bytes: memory.later } });
      departure.later = laterPages(this.site, this.road, departure.record);
    }
    await reached('source', 'sent', migration);
    const went = memory?.after ?? carried;
    return { bytes, memory: went && withThrottle(departure, went) };
  }

  /**
   * The tree's sockets are in repair mode, so that its death closes them without a FIN or RST; packets that have come here since
   * the freeze go back to its home, which knows where it is, and whose those between loopback addresses are (bpf/loopback.h).
   */
  async commit({ migration }: MigrationRequest): Promise<ParkCounts> {
    return this.acts.run(`commit ${migration}`, async () => {
      const departure = this.departures.get(migration);
      return departure === undefined ? NONE : await destroyCopy(this.site, departure);
    });
  }

  async abort({ migration }: MigrationRequest): Promise<void> {
    return this.acts.run(`abort ${migration}`, () => this.putBack(migration));
  }

  private async putBack(migration: string): Promise<void> {
    this.aborted.add(migration);
    const departure = this.departures.get(migration);
    if (departure === undefined) return;
    departure.reverting = true;
    await departure.preparing?.catch(() => undefined);
    if (!this.departures.has(migration)) return; // its own failure has put it back
    await letRunOn(this.site, departure);
    this.forget(migration);
  }

  async finish({ migration }: MigrationRequest): Promise<void> {
    return this.acts.run(`finish ${migration}`, () => this.forgetHere(migration));
  }

  private async forgetHere(migration: string): Promise<void> {
    const departure = this.departures.get(migration);
    if (departure === undefined) return;
    if (departure.resident !== undefined) await this.site.residents.remove(departure.resident);
    await reached('source', 'removed', migration);
    this.forget(migration);
  }

  /** @throws {UserError} `ABORTED`: a step that was under way while the process was put back; the journal would have it again */
  private keep(departure: Departure, change: Partial<DepartureRecord>): void {
    const { migration } = departure.record.request;
    if (this.aborted.has(migration) && !this.departures.has(migration)) throw tooLate(migration);
    departure.record = { ...departure.record, ...change };
    this.departures.set(migration, departure);
    this.site.journal.departures.put(migration, departure.record);
  }

  private forget(migration: string): void {
    ownSession.calm(migration);
    this.departures.delete(migration);
    this.site.journal.departures.delete(migration);
  }

  private look(pid: number, resident: Resident | undefined): ReturnType<typeof inspectProcess> {
    return inspectProcess(...subjectOf(this.site, pid, resident));
  }

  private require(migration: string): Departure {
    const departure = this.departures.get(migration);
    if (departure !== undefined) return departure;
    throw unknownMigration(this.node, migration);
  }
}
