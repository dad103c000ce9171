import { UserError } from '../errors.js';
import { type Found, type GatherOptions, gatherFiles, hashFound } from './gather.js';
import { type Entry, type FileEntry, sameEntry } from './manifest.js';
import { encodeParcel } from './parcel-stream.js';

/** How files reach another node. */
export interface FileRoad {
  /** Tells the destination of all that will come. @returns the places in the list of what it lacks */
  offer(entries: readonly Entry[]): Promise<readonly number[]>;
  send(parcel: AsyncIterable<Buffer>): Promise<void>;
}

/** Hashed at the same time: the thread pool of libuv has four threads. */
const AT_ONCE = 4;

/** The files of one departure on their way. */
export class DepartingFiles {
  /** What the destination was told, by path. */
  private sent = new Map<string, Entry>();
  private found = new Map<string, Found>();

  constructor(
    private readonly road: FileRoad,
    private readonly options: () => GatherOptions,
    private readonly maxBytes: number,
  ) {}

  /** Every file as the destination knows it. */
  get entries(): Entry[] {
    return [...this.sent.values()];
  }

  /**
   * Sends what the destination lacks, while the process runs.
   * @returns bytes of content that were sent.
   * @throws {UserError} `CARRY_TOO_LARGE`
   */
  async sendAhead(): Promise<number> {
    this.found = gatherFiles(this.options());
    requireBytes(this.found, this.maxBytes);
    const entries = await hashAll([...this.found.values()]);
    this.sent = new Map(entries.map((entry) => [entry.path, entry]));
    const lacking = new Set(await this.road.offer(entries));
    return this.send(
      entries.filter((entry, index) => entry.kind === 'file' && lacking.has(index)),
      [],
      false,
    );
  }

  /** Sends what has changed since, now that the process stands still. @returns bytes of content that were sent. */
  async sendRest(): Promise<number> {
    const now = gatherFiles(this.options());
    requireBytes(now, this.maxBytes);
    const doubtful = [...now].filter(([path, found]) => this.mayDiffer(path, found)).map(([, found]) => found);
    const changed = (await hashAll(doubtful)).filter((entry) => !sameInAll(this.sent.get(entry.path), entry));
    const removed = [...this.sent.keys()].filter((path) => !now.has(path));
    this.found = now;
    for (const path of removed) this.sent.delete(path);
    for (const entry of changed) this.sent.set(entry.path, entry);
    return this.send(changed, removed, true);
  }

  private mayDiffer(path: string, found: Found): boolean {
    const before = this.found.get(path);
    return (
      before === undefined || found.silent || before.state !== found.state || before.entry.kind !== found.entry.kind
    );
  }

  private async send(entries: Entry[], removed: string[], final: boolean): Promise<number> {
    await this.road.send(
      encodeParcel({ entries, removed, final }, (path) => this.found.get(path)?.source ?? `/nowhere${path}`),
    );
    return entries.reduce((sum, entry) => sum + (entry.kind === 'file' ? entry.bytes : 0), 0);
  }
}

/** Also what does not make another file of it: how long ago it was written. */
function sameInAll(one: Entry | undefined, other: Entry): boolean {
  if (!sameEntry(one, other)) return false;
  return other.kind !== 'file' || (one as FileEntry).modifiedAt === other.modifiedAt;
}

/** Reads and hashes all files of a list, in its order. */
export async function hashAll(found: readonly Found[]): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (let at = 0; at < found.length; at += AT_ONCE) {
    entries.push(...(await Promise.all(found.slice(at, at + AT_ONCE).map(hashFound))));
  }
  return entries;
}

/** @throws {UserError} `CARRY_TOO_LARGE` that names the largest. */
export function requireBytes(found: ReadonlyMap<string, Found>, maxBytes: number): void {
  const files = [...found.values()].map(({ entry }) => entry).filter((entry) => entry.kind === 'file');
  const bytes = files.reduce((sum, entry) => sum + entry.bytes, 0);
  if (bytes <= maxBytes) return;
  const largest = files.sort((one, other) => other.bytes - one.bytes).slice(0, 3);
  throw new UserError({
    code: 'CARRY_TOO_LARGE',
    message: `${megabytes(bytes)} of files would travel with the process, and ${megabytes(maxBytes)} are allowed; the largest: ${largest
      .map(({ path, bytes: size }) => `${path} (${megabytes(size)})`)
      .join(', ')}`,
    remedy: 'raise carry.maxBytes on the node where the process is, or name fewer folders in carry.paths and --carry',
  });
}

function megabytes(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
