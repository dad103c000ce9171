import { setTimeout as pause } from 'node:timers/promises';
import { asHomeproxyError, type ErrorDocument, fromDocument, type UserError } from '../errors.js';
import { type Assessment, fitOf } from './assessment.js';
import { followCopying } from './copy-progress.js';
import { accepted, type Course, interruptedByRestart, joined, startCourse, summaryOf, travelled } from './course.js';
import { directionOf } from './decision.js';
import { endOf, type MigrationEnd, refusalOf } from './ends.js';
import { insist, isUnheard } from './insist.js';
import type { DestinationParticipant, InspectResponse, NodeName, SourceParticipant } from './messages.js';
import { type Asked, askedOf, type MigrateOptions } from './migrate-options.js';
import { newMigrationId } from './migration-id.js';
import { type Rebuilt, rebuild } from './rebuild.js';
import type { MigrationRecord, MigrationState, MigrationSummary } from './records.js';
import { alreadyMoving, alreadyThere, reasonOf, refuse, requireNode, requireOwner, rolledBack } from './refusals.js';
import { grown, seenAway } from './seen-away.js';
import { portsAway } from './shared-ports.js';
import type { Site } from './site.js';
import { reached } from './steps.js';
import { Stopwatch, wallClock } from './stopwatch.js';
import type { Twin, Twins } from './twins.js';

/** How the coordinator reaches the participants on any node, this one included. */
export interface Participants {
  source(node: NodeName): SourceParticipant;
  destination(node: NodeName): DestinationParticipant;
}

/** How a migration that a crash had cut short has ended. */
export type RecoveryOutcome = 'rolled-forward' | 'rolled-back' | 'failed';

/**
 * The home node's part: it decides every migration of its processes, wherever they are. A two-phase commit whose decision
 * is one durable record: before it every failure puts the process back where it was, after it the destination's copy is
 * the process. Participants only hold; whatever happens to them or to us, this class brings each migration to its end.
 */
export class Coordinator {
  private readonly moving = new Set<number>();
  private readonly courses = new Map<number, Course>();
  private readonly closing = new AbortController();

  constructor(
    private readonly site: Site,
    private readonly twins: Twins,
    private readonly participants: Participants,
    /** Told of every end, once the process runs where it stays. */
    private readonly onEnd: (end: MigrationEnd) => void = () => undefined,
  ) {}

  /**
   * Moves the process that has `pid` at home to a node; `to` may be the home itself (recall).
   * @throws {UserError} refusals, before anything is frozen. After a failure on the way: `ROLLED_BACK`, exit 6, with its
   * cause; the process runs where it was.
   */
  async migrate(pid: number, to: string, options: MigrateOptions = {}): Promise<MigrationSummary> {
    const destination = requireNode(this.site.nodes, to);
    const migration = options.migration ?? newMigrationId();
    if (this.moving.has(pid)) throw alreadyMoving(pid);
    this.moving.add(pid);
    try {
      const from = this.twins.find(pid)?.record.location ?? this.site.node;
      const course = await this.begin(migration, pid, destination, options).catch((error: unknown) => {
        this.onEnd(refusalOf({ home: this.site.node, from, to: destination }, migration, pid, error));
        throw error;
      });
      this.courses.set(pid, course);
      try {
        await this.prepare(course);
        await this.freezeAndRestore(course);
      } catch (error) {
        throw await this.rollBack(course, asHomeproxyError(error).toDocument());
      } finally {
        course.settle();
      }
      return await this.rollForward(course);
    } finally {
      this.moving.delete(pid);
      this.courses.get(pid)?.over();
      this.courses.delete(pid);
    }
  }

  private async inspect(pid: number, { carry: asked, resetClosing }: Asked): Promise<InspectResponse> {
    const twin = this.twins.find(pid);
    const source = this.participants.source(twin?.record.location ?? this.site.node);
    const carry = twin?.record.carry ?? asked;
    const found = await source.inspect({ pid, twin: twin?.id, carry, resetClosing });
    if (twin !== undefined)
      return { ...found, description: seenAway(this.site.node.name, twin.record.description, found.description) };
    return { ...found, verdicts: [...found.verdicts, ...portsAway(found.description, this.twins.all())] };
  }

  /** Every verdict on a move, of both ends, without touching the process. @param to undefined: only of the end where it is */
  async assess(pid: number, to: string | undefined, options: Asked = {}): Promise<Assessment> {
    const destination = to === undefined ? undefined : requireNode(this.site.nodes, to);
    const twin = this.twins.find(pid);
    const from = twin?.record.location ?? this.site.node;
    if (destination !== undefined && from.name === to) throw alreadyThere(pid, destination, this.site.node);
    const found = await this.inspect(pid, options);
    requireOwner(options.requester, twin?.record.description ?? found.description);
    const there =
      destination === undefined
        ? []
        : await fitOf(this.site.node, found, this.participants.destination(destination), twin?.id);
    return { from: from.name, moving: found.moving, verdicts: [...found.verdicts, ...there] };
  }

  /** Home pids of the processes that are on their way now. */
  movingPids(): number[] {
    return [...this.moving];
  }

  /** What those that are on their way are doing; the ones that are only being looked at have no course yet. */
  running(): readonly Course[] {
    return [...this.courses.values()];
  }

  /**
   * Brings every migration that the journal shows unfinished to its end: forward if it was committed, else back. Runs on in
   * the background while participants cannot be reached.
   * @param onEnd told the outcome of each.
   */
  recover(onEnd: (record: MigrationRecord, outcome: RecoveryOutcome, error?: unknown) => void): void {
    const unfinished = this.site.journal.migrations.all().filter(({ state }) => directionOf(state) !== 'none');
    const open = new Set(unfinished.map(({ twin }) => twin));
    for (const record of unfinished) {
      this.bringToEnd(record).then(
        (outcome) => onEnd(record, outcome),
        (error: unknown) => onEnd(record, 'failed', error),
      );
    }
    // A crash fell between the twin and the first record of its migration: nothing has happened.
    for (const twin of this.twins.all()) {
      const atHome = twin.record.location.name === this.site.node.name;
      if (atHome && !open.has(twin.id)) this.twins.remove(twin).catch(() => undefined);
    }
  }

  /** Makes twins and bindings again of what the hosts hold of this node's processes: its own memory was lost. */
  async rebuild(): Promise<Rebuilt> {
    return rebuild(this.site, this.twins, this.participants);
  }

  private async bringToEnd(record: MigrationRecord): Promise<RecoveryOutcome> {
    const direction = directionOf(record.state);
    const error = reasonOf(record);
    const twin = this.twins.find(record.pid);
    if (direction === 'tell' || twin?.id !== record.twin) {
      // Without a twin the process is in order: only the last words are missing.
      if (direction !== 'forward') await this.tell(record);
      const { migrations } = this.site.journal;
      migrations.put(
        record.migration,
        direction === 'forward' ? { ...record, state: 'done' } : { ...record, state: 'rolled-back', error },
      );
      return direction === 'forward' ? 'rolled-forward' : 'rolled-back';
    }
    this.moving.add(record.pid);
    try {
      const course = interruptedByRestart(record, twin, this.participants);
      this.courses.set(record.pid, course);
      const result = direction === 'forward' ? await this.rollForward(course) : await this.rollBack(course, error);
      return result instanceof Error ? 'rolled-back' : 'rolled-forward';
    } finally {
      this.moving.delete(record.pid);
      this.courses.delete(record.pid);
    }
  }

  /** Stops insisting; what is unfinished stays in the journal. */
  close(): void {
    this.closing.abort();
  }

  private async begin(migration: string, pid: number, to: NodeName, options: MigrateOptions): Promise<Course> {
    const watch = new Stopwatch(options.onPhase);
    const existing = this.twins.find(pid);
    const from = existing?.record.location ?? this.site.node;
    if (from.name === to.name) throw alreadyThere(pid, to, this.site.node);
    watch.begin('inspect');
    const source = this.participants.source(from);
    const found = await this.inspect(pid, options).catch(async (error: unknown) => {
      if (existing !== undefined && asHomeproxyError(error).code === 'RESIDENT_ENDED') await this.strikeOff(existing);
      throw error;
    });
    requireOwner(options.requester, existing?.record.description ?? found.description);
    refuse(pid, found.verdicts);
    refuse(pid, await fitOf(this.site.node, found, this.participants.destination(to), existing?.id));
    const { description } = found;
    watch.begin('prepare');
    const twin = existing ?? (await this.twins.create(description, options.carry));
    await reached('coordinator', 'twin-made', migration);
    return startCourse({
      migration,
      twin,
      description,
      source,
      destination: this.participants.destination(to),
      watch,
      epoch: twin.record.epoch + 1,
      ...askedOf(options, this.site),
    });
  }

  /** A process that has ended where it lived needs nobody to stand in for it. */
  private async strikeOff(twin: Twin): Promise<void> {
    await this.participants.source(twin.record.location).discard({ twin: twin.id });
    await this.twins.remove(twin);
  }

  /** Everything that needs no frozen process. */
  private async prepare(course: Course): Promise<void> {
    const { migration, twin, source, destination, epoch, description, resetClosing } = course;
    this.site.journal.transaction(() => {
      this.record(course, { state: 'preparing' });
      this.twins.update(twin, { epoch }); // an epoch is never used twice, whatever comes of it
    });
    await reached('coordinator', 'preparing', migration);
    const request = { migration, twin: twin.id, epoch };
    const { carry } = twin.record;
    const made = await course.unlessStopped(
      Promise.allSettled([
        destination
          .prepare({
            ...request,
            home: this.site.node,
            source: source.node,
            description,
            cgroup: twin.record.cgroup,
            block: twin.record.block,
            carry: carry !== undefined,
            later: course.limits.later,
          })
          .then((answer) => accepted(course, answer)),
        source.prepare({ ...request, pid: description.homePid, destination: destination.node, carry, resetClosing }),
        twin.control.openQueue(),
        ...(destination.node.name === this.site.node.name ? [] : [twin.control.resolve(destination.node)]),
      ]),
    );
    for (const result of made) if (result.status === 'rejected') throw result.reason;
    await reached('coordinator', 'prepared', migration);
    if (carry !== undefined) travelled(course, await course.unlessStopped(source.carry({ migration })));
    if (course.copyAhead === false) return;
    const copying = source.sendAhead({ migration, limits: course.limits });
    void followCopying(source, migration, copying, (progress) => course.watch.tell(progress));
    travelled(course, await course.unlessStopped(copying));
  }

  private async freezeAndRestore(course: Course): Promise<void> {
    const { migration, twin, source, destination, watch } = course;
    this.record(course, { state: 'freezing' });
    await reached('coordinator', 'freezing', migration);
    watch.begin('drain');
    twin.control.raise(course.epoch);
    twin.control.holdNew();
    await reached('coordinator', 'new-held', migration);
    const drained = await course.unlessStopped(source.drain({ migration }));
    course.description = grown(this.site.node, course, this.twins.all(), drained.description);
    twin.control.claim(course.description);
    await reached('coordinator', 'drained', migration);

    watch.begin('dump');
    course.freezeBegins();
    twin.control.holdDatagrams();
    joined(course, await course.unlessStopped(source.freeze({ migration, together: course.together })));
    await reached('coordinator', 'frozen', migration);
    twin.control.park();
    await reached('coordinator', 'parked', migration);

    watch.begin('transfer');
    travelled(course, await course.unlessStopped(source.transfer({ migration })));
    await reached('coordinator', 'transferred', migration);

    watch.begin('restore');
    const { ports, flows } = course.description;
    const { notKept } = await course.unlessStopped(destination.restore({ migration, ports, flows }));
    course.notKept = [...course.notKept, ...notKept];
    await reached('coordinator', 'restored', migration);
    course.throwIfStopped();
  }

  /** From here each step is repeated until it succeeds; the one way back is the destination's word that its copy is lost. */
  private async rollForward(course: Course): Promise<MigrationSummary> {
    const { migration, twin, source, destination, watch, epoch, description } = course;
    watch.begin('commit');
    this.site.journal.transaction(() => {
      this.record(course, { state: 'committed' });
      this.twins.update(twin, { location: destination.node, epoch, description, departedAt: Date.now() });
    });
    await reached('coordinator', 'committed', migration);
    const returned = destination.node.name === this.site.node.name;

    watch.begin('resume');
    if (!returned) twin.control.believe(destination.node);
    try {
      await this.insist(() => destination.commit({ migration }), 'COPY_LOST');
    } catch (error) {
      const cause = asHomeproxyError(error);
      if (cause.code !== 'COPY_LOST') throw cause;
      throw await this.rollBack(course, cause.toDocument());
    }
    course.resumedAt = wallClock();
    await reached('coordinator', 'destination-committed', migration);

    watch.begin('replay');
    const ended = this.insist(() => source.commit({ migration }));
    if (course.memory?.later !== undefined)
      void followCopying(source, migration, ended, (progress) => watch.tell(progress));
    const [home, away] = await Promise.all([
      (returned ? twin.control.pass() : twin.control.tunnel(destination.node)).finally(() => {
        course.forwardedAt = wallClock();
        return reached('coordinator', 'forwarded', migration);
      }),
      ended,
    ]);
    course.bytesMoved += away.laterBytes ?? 0;
    await reached('coordinator', 'source-committed', migration);

    watch.begin('finish');
    await Promise.all([
      this.insist(() => source.finish({ migration })),
      destination.finish({ migration }).catch(() => undefined), // not heard: it cleans up by itself
    ]);
    await reached('coordinator', 'source-finished', migration);
    if (returned) await this.twins.remove(twin);
    await reached('coordinator', 'twin-removed', migration);
    watch.end();
    const summary = summaryOf(course, home, away);
    this.record(course, course.cutShort === true ? { state: 'done' } : { state: 'done', summary });
    await reached('coordinator', 'done', migration);
    this.onEnd(endOf(this.site.node, course, { summary }));
    return summary;
  }

  /**
   * Puts everything back. The process runs again as soon as its source has answered; a destination that does not answer is
   * told later, as often as it takes: nothing there can run.
   * @returns the error that says so.
   */
  private async rollBack(course: Course, error: ErrorDocument): Promise<UserError> {
    const { migration, twin, source, destination } = course;
    this.site.journal.transaction(() => {
      this.record(course, { state: 'reverting', error });
      this.twins.update(twin, { location: source.node });
    });
    await reached('coordinator', 'reverting', migration);
    const told = this.tell({ migration, to: destination.node });
    told.catch(() => undefined); // we are closing; the journal remembers
    await this.insist(() => source.abort({ migration }));
    course.resumedAt = wallClock();
    await reached('coordinator', 'source-aborted', migration);
    if (source.node.name === this.site.node.name) {
      await twin.control.pass();
      await this.twins.remove(twin);
    } else await twin.control.tunnel(source.node);
    course.forwardedAt = wallClock();
    await reached('coordinator', 'put-back', migration);
    this.record(course, { state: 'reverted', error });
    await reached('coordinator', 'reverted', migration);
    this.onEnd(endOf(this.site.node, course, { error }));
    const over = told.then(async () => {
      this.record(course, { state: 'rolled-back', error });
      await reached('coordinator', 'rolled-back', migration);
    });
    over.catch(() => undefined);
    // Whoever asked for the migration need not wait for a destination that is down.
    const waitMs = isUnheard(error.code) ? 0 : this.site.timeouts.connectMs;
    await Promise.race([over, pause(waitMs, undefined, { ref: false })]);
    return rolledBack(course.description.homePid, source.node, fromDocument(error), course.frozenAt > 0);
  }

  private async tell({ migration, to }: Pick<MigrationRecord, 'migration' | 'to'>): Promise<void> {
    await this.insist(() => this.participants.destination(to).abort({ migration }));
    await reached('coordinator', 'destination-aborted', migration);
  }

  private insist<Result>(action: () => Promise<Result>, finalCode?: string): Promise<Result> {
    return insist(action, this.closing.signal, finalCode);
  }

  private record(course: Course, state: MigrationState): void {
    const { migration, twin, description, source, destination, epoch, startedAt, watch, policy } = course;
    this.site.journal.migrations.put(migration, {
      ...state,
      migration,
      twin: twin.id,
      pid: description.homePid,
      comm: description.comm,
      binding: twin.record.binding,
      from: source.node,
      to: destination.node,
      epoch,
      description,
      startedAt,
      phases: watch.durations,
      ...(policy === undefined ? {} : { policy }),
    });
  }
}
