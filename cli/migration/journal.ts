import { mkdirSync } from 'node:fs';
import { type Database, open, type RootDatabase } from 'lmdb';
import { closeOnExec } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import type { CarriedRecord } from '../files/homecoming.js';
import type { ParkQueueRecord } from '../forwarding/park-queue.js';
import { readDescriptors } from '../system/procfs.js';
import { ConnectionTable } from './connection-table.js';
import type { PortLease } from './port-leases.js';
import type { ArrivalRecord, DepartureRecord, MigrationRecord, ResidentRecord, TwinRecord } from './records.js';
import type { StepName } from './steps.js';

const KEPT_MIGRATIONS = 1000;
const COMPLETE = 'complete';
const DRAINING = 'draining';
/** Migrations whose steps are kept at hand while they go on. */
const OPEN_NOTES = 32;
/** Longer than the steps of an ordinary freeze are apart. */
const QUIET_MS = 250;

/**
 * The node's durable memory: an LMDB in the state folder. A write returns when it is on disk (fdatasync), so that what is
 * done after it can rely on it: write, sync, then act.
 */
export class Journal {
  private readonly root: RootDatabase;
  readonly twins: Table<TwinRecord>;
  readonly residents: Table<ResidentRecord>;
  readonly departures: Table<DepartureRecord>;
  readonly arrivals: Table<ArrivalRecord>;
  readonly queues: Table<ParkQueueRecord>;
  readonly migrations: Table<MigrationRecord>;
  readonly portLeases: Table<PortLease>;
  /** Of each process that was ever here for another home: the highest epoch that this node has heard of. */
  readonly epochs: Table<number>;
  readonly steps: StepTable;
  readonly connections: ConnectionTable;
  /** Of processes that left with their files: what these were, by twin. */
  readonly carried: Table<CarriedRecord>;
  private readonly facts: Table<boolean>;

  /** @throws {UserError} `JOURNAL_UNUSABLE` when the folder cannot be made or the store cannot be opened. */
  constructor(folder: string) {
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      // Without overlapping syncs a synchronous put returns only after the flush.
      this.root = open({ path: `${folder}/journal.mdb`, maxDbs: 16, overlappingSync: false, encoding: 'json' });
    } catch (error) {
      throw new UserError({
        code: 'JOURNAL_UNUSABLE',
        message: `the journal in ${folder} cannot be opened: ${(error as Error).message}`,
        remedy: 'check that the folder is writable and its disk is not full',
        exitStatus: 7,
        cause: error,
      });
    }
    keepFromChildren(folder);
    this.twins = new Table(this.root.openDB({ name: 'twins' }));
    this.residents = new Table(this.root.openDB({ name: 'residents' }));
    this.departures = new Table(this.root.openDB({ name: 'departures' }));
    this.arrivals = new Table(this.root.openDB({ name: 'arrivals' }));
    this.queues = new Table(this.root.openDB({ name: 'queues' }));
    this.migrations = new Table(this.root.openDB({ name: 'migrations' }));
    this.portLeases = new Table(this.root.openDB({ name: 'port-leases' }));
    this.epochs = new Table(this.root.openDB({ name: 'epochs' }));
    this.steps = new StepTable(this.root.openDB({ name: 'steps' }));
    this.connections = new ConnectionTable(this.root.openDB({ name: 'connections' }));
    this.carried = new Table(this.root.openDB({ name: 'carried' }));
    this.facts = new Table(this.root.openDB({ name: 'facts' }));
    this.forgetOldest();
  }

  /** All writes of `work` become durable together, or none does. */
  transaction(work: () => void): void {
    this.root.transactionSync(work);
  }

  /**
   * Whether this journal knows of everything that this node has in the kernel. Not so when it was made anew while something was
   * left: then what it does not name may be needed.
   */
  get complete(): boolean {
    return this.facts.get(COMPLETE) === true;
  }

  declareComplete(): void {
    this.facts.put(COMPLETE, true);
  }

  /** Whether this node is being emptied: it takes no process. */
  get draining(): boolean {
    return this.facts.get(DRAINING) === true;
  }

  set draining(draining: boolean) {
    this.facts.put(DRAINING, draining);
  }

  async close(): Promise<void> {
    this.steps.save();
    await this.root.close();
  }

  /** Keeps the last thousand migrations that are over. */
  private forgetOldest(): void {
    const over = this.migrations.all().filter(({ state }) => state === 'done' || state === 'rolled-back');
    for (const { migration } of over.slice(0, Math.max(0, over.length - KEPT_MIGRATIONS))) {
      this.migrations.delete(migration);
    }
    const kept = this.steps.migrations();
    for (const migration of kept.slice(0, Math.max(0, kept.length - 2 * KEPT_MIGRATIONS))) this.steps.delete(migration);
  }
}

/** LMDB opens its file so that children inherit it: CRIU, pods and what lives in them must not hold our journal. */
function keepFromChildren(folder: string): void {
  for (const { fd, target } of readDescriptors(process.pid)) if (target.startsWith(`${folder}/`)) closeOnExec(fd);
}

/** Records of one kind by their id, in the order of ids. */
export class Table<Value> {
  constructor(private readonly database: Database<Value, string>) {}

  get(id: string): Value | undefined {
    return this.database.get(id);
  }

  put(id: string, value: Value): void {
    this.database.putSync(id, value);
  }

  delete(id: string): void {
    this.database.removeSync(id);
  }

  ids(): string[] {
    return [...this.database.getKeys({})];
  }

  all(): Value[] {
    return [...this.database.getRange({})].map(({ value }) => value);
  }
}

/** A step that a migration came to on this node. */
export interface StepNote {
  readonly step: StepName;
  /** Milliseconds since the epoch, with fractions. */
  readonly at: number;
}

/**
 * When each migration came to each step here: for people, so that writing it must not delay the migration. A write that waits for the
 * disk is in the way of the next one that has to be durable (one at a time; 6 ms of a freeze each where the disk was busy, measured), and
 * twenty of them took 3 ms of a processor: nothing is written while step follows step.
 */
export class StepTable {
  private readonly open = new Map<string, StepNote[]>();
  private readonly unsaved = new Set<string>();
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly database: Database<StepNote[], string>) {}

  /** Adds a step; it is on disk when there was none for {@link QUIET_MS}. */
  append(migration: string, note: StepNote): void {
    const notes = this.open.get(migration) ?? this.of(migration);
    notes.push(note);
    this.open.set(migration, notes);
    this.unsaved.add(migration);
    if (this.open.size > OPEN_NOTES) this.forgetOldest();
    if (this.timer === undefined) this.timer = setTimeout(() => this.save(), QUIET_MS).unref();
    else this.timer.refresh();
  }

  of(migration: string): StepNote[] {
    return [...(this.open.get(migration) ?? this.database.get(migration) ?? [])];
  }

  /** The oldest first: their names begin with the time. */
  migrations(): string[] {
    return [...new Set([...this.database.getKeys({}), ...this.unsaved])].sort();
  }

  delete(migration: string): void {
    this.open.delete(migration);
    this.unsaved.delete(migration);
    this.database.removeSync(migration);
  }

  /** Begins to write what is not on disk; whoever closes the store waits for it. */
  save(): void {
    for (const migration of this.unsaved) {
      const notes = this.open.get(migration) ?? [];
      this.database.put(migration, notes).catch(() => undefined); // a full disk stops migrations elsewhere, and says so
    }
    this.unsaved.clear();
  }

  private forgetOldest(): void {
    this.save();
    this.open.delete([...this.open.keys()][0] ?? '');
  }
}
