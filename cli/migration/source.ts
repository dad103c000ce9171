import { join } from 'node:path';
import { criuVersion, findCriu, startDump } from '../checkpoint/criu.js';
import { closeDoor } from '../checkpoint/criu-door.js';
import { CriuSession } from '../checkpoint/criu-session.js';
import { gather, plannedFreezer, scatter } from '../checkpoint/freezer.js';
import { Gate } from '../checkpoint/gate.js';
import { createImageFolder, wipeImageFolder } from '../checkpoint/image-folder.js';
import { PagePipe } from '../checkpoint/page-pipe.js';
import { Throttle } from '../checkpoint/throttle.js';
import type { CopyProgress } from '../memory/carried.js';
import { DepartingMemory } from '../memory/departing.js';
import { destroyPod, podAlive } from '../pod/pod.js';
import { closingVerdicts } from '../process/closing-connections.js';
import type { ProcessDescription } from '../process/description.js';
import { examineProcess } from '../process/examine.js';
import { inspectProcess } from '../process/inspect.js';
import { isShellJob } from '../process/session-verdicts.js';
import { sharedMemoryFindings } from '../process/shared-memory.js';
import { removeObjects, sysvFindings } from '../process/sysv.js';
import { urgentVerdicts } from '../process/urgent-data.js';
import { Cgroup } from '../system/cgroup.js';
import type { BindingControl } from './binding-control.js';
import { noteSockets } from './carried-options.js';
import { type FilesRoad, filesOf, wouldCarry } from './carrying.js';
import { awaitTaken } from './closing.js';
import { noteStopped } from './connection-notes.js';
import { copyAhead, withThrottle } from './copy-ahead.js';
import { type Departure, destroyTree, holdAfterKill, IDLE, NONE, settled, tooLate } from './departure.js';
import { emptyDatagramQueues, finishHandshakes, requireSamePorts, requireSaved, usesSysv } from './drain.js';
import type {
  CopyRequest,
  DrainResponse,
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
import { laterPages } from './paging.js';
import type { DepartureRecord } from './records.js';
import { outOfOrder, refuse, stillRuns, unknownMigration } from './refusals.js';
import type { Resident } from './residents.js';
import { type ImageRoad, Sending } from './sending.js';
import { copyObjects, dropNames, listObjects, needsNames, removeShared } from './shared-objects.js';
import { sharedAsAtHome } from './shared-ports.js';
import type { Site } from './site.js';
import { standStill } from './stand-still.js';
import { requireSameStay, staying } from './staying-listeners.js';
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
      const later = laterPages(this.road, record);
      this.departures.set(migration, { ...IDLE, record, session, pages, resident, later });
    }
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
    const root = localPids[0] ?? 0;
    const record: DepartureRecord = {
      request,
      home: (resident?.home ?? this.node).name,
      criu: undefined,
      images: join(this.site.imageRoot, `${migration}-dump`),
      freezer:
        resident === undefined
          ? plannedFreezer(root, `homeproxy-${migration}`)
          : { path: resident.pod.cgroup, origins: [] },
      localPids,
      ports: description.ports.map(({ port }) => port),
      listening: description.listening,
      block: resident?.record.block,
      sysv: await sysvFindings(localPids),
    };
    const departure: Departure = { ...IDLE, record, session: undefined, pages: undefined, resident };
    this.keep(departure, {});
    departure.preparing = this.makeReady(departure, criu, description);
    try {
      await departure.preparing;
    } catch (error) {
      departure.preparing = undefined;
      await this.abort(request);
      throw error;
    }
    departure.preparing = undefined;
  }

  private async makeReady(departure: Departure, criu: string, description: ProcessDescription): Promise<void> {
    const { record, resident } = departure;
    const { request, images, localPids } = record;
    const { migration } = request;
    const root = localPids[0] ?? 0;
    await reached('source', 'noted', migration);
    if (resident === undefined) this.keep(departure, { freezer: gather(root, record.freezer) });
    await reached('source', 'gathered', migration);
    createImageFolder(images);
    await resident?.control.openQueue();
    await reached('source', 'queue-opened', migration);
    const pid = resident === undefined ? root : request.pid;
    const inside =
      resident === undefined ? {} : { podInit: resident.pod.init.pid, ownRoot: resident.pod.root !== undefined };
    departure.pages = await PagePipe.create(images);
    departure.gate = await Gate.create(images);
    departure.memory = DepartingMemory.of(localPids, description.residentBytes);
    departure.session = await startDump({
      criu,
      images,
      pid,
      shellJob: isShellJob(description),
      outsideIpc: usesSysv(record),
      linkRemap: needsNames(localPids),
      skipInFlight: staying(record).size > 0,
      ...inside,
    });
    await reached('source', 'criu-started', migration);
    this.keep(departure, { criu: departure.session.run.process });
    await Promise.all([
      departure.session.reached('pre-dump', this.site.timeouts.prepareMs),
      this.road.open(request.destination),
    ]);
    await reached('source', 'ready', migration);
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
    return this.require(migration).memory?.progress ?? { round: 0, bytes: 0, total: 0, rate: 0 };
  }

  /**
   * Waits until handshakes that had begun are over and the process has accepted them: CRIU cannot carry a listener's queue
   * nor half-open connections. New SYNs are held back, so it must end, unless the process does not accept.
   */
  async drain({ migration }: MigrationRequest): Promise<DrainResponse> {
    const departure = this.require(migration);
    const { record, resident } = departure;
    resident?.control.holdNew();
    try {
      const { waitedMs, unfinished } = await finishHandshakes(record, this.site.timeouts.drainMs);
      departure.slow = unfinished;
      if (resident !== undefined) departure.lost = await awaitTaken(record, this.site.timeouts.drainMs - waitedMs);
      const { description, verdicts, localPids } = this.look(record.request.pid, resident);
      refuse(record.request.pid, [...verdicts, ...sharedMemoryFindings(localPids).verdicts]);
      requireSameStay(record, description.listening);
      this.keep(departure, { localPids, ports: description.ports.map(({ port }) => port) });
      departure.drained = description;
      resident?.control.claim(sharedAsAtHome(resident.description, description)); // another guest may share its ports
      return { waitedMs, description };
    } finally {
      await reached('source', 'drained', migration);
    }
  }

  /** Stops the process and dumps it; its memory is on the way to the destination meanwhile. */
  async freeze({ migration }: MigrationRequest): Promise<FreezeResponse> {
    const departure = this.require(migration);
    const { record, session, pages, ahead, resident } = departure;
    if (session === undefined || pages === undefined) throw outOfOrder(migration, 'is not prepared');
    this.controlOf(departure)?.holdDatagrams();
    await reached('source', 'datagrams-held', migration);
    const requireNothingCame = await emptyDatagramQueues(record, this.site.timeouts.drainMs);
    if (departure.reverting) throw tooLate(migration);
    const pid = record.localPids[0] ?? 0;
    const load = { to: record.request.destination, migration, folder: record.images, pages, ahead, pid };
    const sending = new Sending(this.road, load);
    departure.sending = sending;
    session.go('pre-dump');
    await reached('source', 'dumping', migration);
    const stood = await sending.unlessItFails(standStill(departure, session, this.controlOf(departure)));
    const { freezeMs, transferMs } = this.site.timeouts;
    await requireNothingCame(departure.slow); // while CRIU dumps: the process stands still and so do its sockets
    refuse(record.request.pid, urgentVerdicts(record.localPids));
    const noted = noteSockets(record);
    const copied = copyObjects(record, resident !== undefined);
    for (const beside of [noted, copied]) beside.catch(() => undefined); // heard when the dump is over
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
      this.keep(departure, { later: { bandwidthLimit: pace } });
      departure.later = laterPages(this.road, departure.record);
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
    return this.acts.run(`commit ${migration}`, () => this.destroyHere(migration));
  }

  private async destroyHere(migration: string): Promise<ParkCounts> {
    const departure = this.departures.get(migration);
    if (departure === undefined) return NONE;
    const { record, session, pages, memory, resident } = departure;
    resident?.control.raise(record.request.epoch);
    const counts = (await resident?.control.tunnel(resident.home)) ?? NONE;
    await reached('source', 'forwarded', migration);
    await departure.later?.acknowledged; // until then there is no other copy of what is missing there
    session?.go('post-dump');
    await reached('source', 'let-end', migration);
    await session?.end(this.site.timeouts.commitMs);
    pages?.close();
    memory?.release();
    await reached('source', 'ended', migration);
    if (resident !== undefined) await destroyPod(resident.pod);
    else await destroyTree(record); // CRIU ends the tree; one that was killed meanwhile did not
    if (record.sysv !== undefined) await removeObjects(record.sysv.own);
    if (resident === undefined) removeShared(record.sharedObjects);
    await noteStopped(this.site, record);
    wipeImageFolder(record.images);
    await reached('source', 'wiped', migration);
    return counts;
  }

  async abort({ migration }: MigrationRequest): Promise<void> {
    return this.acts.run(`abort ${migration}`, () => this.runOn(migration));
  }

  private async runOn(migration: string): Promise<void> {
    this.aborted.add(migration);
    const departure = this.departures.get(migration);
    if (departure === undefined) return;
    departure.reverting = true;
    await departure.preparing?.catch(() => undefined);
    if (!this.departures.has(migration)) return; // its own failure has put it back
    const { record, session, pages, sending, resident } = departure;
    const held = session?.passed('pre-dump') === true;
    this.controlOf(departure)?.openEgress(resident?.home); // it runs as soon as CRIU lets go of it, and what it says counts again
    sending?.giveUp(tooLate(migration));
    pages?.discard();
    departure.memory?.giveUp(tooLate(migration));
    await departure.throttle?.lift();
    departure.later?.giveUp(tooLate(migration));
    departure.gate?.close();
    session?.stop();
    const status = (await session?.end(this.site.timeouts.freezeMs, this.site.timeouts.transferMs)) ?? null;
    pages?.close();
    if (resident?.pod.root !== undefined && podAlive(resident.pod)) closeDoor(resident.pod.init.pid);
    await reached('source', 'vetoed', migration);
    if (status === null && held) {
      holdAfterKill(record); // perhaps; or it was adopted, and nobody knows
    }
    dropNames(record.localPids);
    await reached('source', 'repaired', migration);
    if (resident === undefined) scatter(record.freezer);
    else {
      const pod = new Cgroup(record.freezer.path);
      if (pod.exists) pod.setFrozen(false);
      await resident.control.deliver(resident.home);
    }
    await reached('source', 'runs-again', migration);
    if (session?.passed('post-dump') === true) await noteStopped(this.site, record);
    wipeImageFolder(record.images);
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

  /** Over the binding of a process of this node, or of one that lives here for another home. */
  private controlOf({ record, resident }: Departure): BindingControl | undefined {
    return resident?.control ?? this.site.twins.byId(record.request.twin)?.control;
  }

  private keep(departure: Departure, change: Partial<DepartureRecord>): void {
    departure.record = { ...departure.record, ...change };
    const { migration } = departure.record.request;
    this.departures.set(migration, departure);
    this.site.journal.departures.put(migration, departure.record);
  }

  private forget(migration: string): void {
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
