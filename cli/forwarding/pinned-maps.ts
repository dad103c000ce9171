import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BpfMap, type BpfObject, Btf, StructCodec } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import { DeviceRole, type LayoutStruct } from './abi.gen.js';
import { convert, fateOf, Unfit } from './take-over.js';

/** bpffs allows no dots. */
const STAGED = 'maps-new';
const REPLACED = 'maps-old';
const KEY = Buffer.alloc(4);

/**
 * The maps of a previous build, and how they become those of this one. Nothing that is pinned changes before `commit`: until
 * then the previous programs find their maps as they were.
 */
export class PinnedMaps {
  private readonly pinned = new Map<string, BpfMap>();
  private readonly converted = new Set<string>();
  /** Whether the folder is other than what was pinned. */
  private changed = false;
  /** What the pinned layout was before {@link announceTcx}. */
  private announced: Buffer | undefined;

  private constructor(
    private readonly pins: string,
    private readonly object: BpfObject,
  ) {}

  /**
   * Gives the object, before it is loaded, the pinned maps that fit.
   * @throws {UserError} `LAYOUT_UNKNOWN`, `LAYOUT_UNFIT`, `LAYOUT_BUSY`: the previous build must be used, nothing has changed.
   */
  static adopt(pins: string, object: BpfObject): PinnedMaps {
    repair(pins);
    const maps = new PinnedMaps(pins, object);
    try {
      maps.openAll();
      maps.requireKnownLayout();
      for (const declared of object.declarations) {
        const pinned = maps.pinned.get(declared.name);
        const fate = pinned === undefined ? 'fresh' : fitting(declared.name, () => fateOf(pinned, declared));
        if (pinned !== undefined && fate === 'reuse') object.reuse(declared.name, pinned);
        else maps.changed = true;
        if (fate === 'convert') maps.converted.add(declared.name);
      }
      const declared = new Set(object.declarations.map(({ name }) => name));
      if ([...maps.pinned.keys()].some((name) => !declared.has(name))) maps.changed = true;
      if (maps.converted.has('park_states')) maps.requireNothingParked();
      return maps;
    } catch (error) {
      maps.close();
      throw error;
    }
  }

  /** Whether the previous build had a map of that name. */
  had(name: string): boolean {
    return this.pinned.has(name);
  }

  /** Fills the maps of the loaded object with what the pinned ones hold, and pins them all aside. */
  stage(): void {
    if (!this.changed) return;
    const staged = join(this.pins, STAGED);
    mkdirSync(staged, { recursive: true, mode: 0o700 });
    for (const { name } of this.object.declarations) {
      const map = this.object.map(name);
      try {
        const pinned = this.pinned.get(name);
        if (pinned !== undefined && this.converted.has(name)) fitting(name, () => convert(pinned, map));
        map.pin(join(staged, name));
      } finally {
        map.close();
      }
    }
  }

  /**
   * Programs are about to be attached by tcx: builds from before it, that could not replace those, must not take over from here on,
   * how ever far this start comes.
   */
  announceTcx(): void {
    const layout = this.pinned.get('layout');
    this.announced = layout?.get(KEY);
    layout?.set(KEY, this.encoded(this.layouts().newest));
  }

  /**
   * From now on what `stage` pinned is what is pinned.
   * @param byTcx what is attached is nothing that builds before tcx could replace: they must not take over
   */
  commit(byTcx: boolean): void {
    if (this.changed) replace(this.pins);
    const layout = this.object.map('layout');
    const { newest, filters } = this.layouts();
    layout.set(KEY, this.encoded(byTcx ? newest : filters));
    layout.close();
  }

  private encoded(version: number): Buffer {
    return new StructCodec(this.object.btf, 'layout').encode({ version } satisfies LayoutStruct);
  }

  /** Removes what `stage` pinned. */
  abandon(): void {
    if (this.announced !== undefined) this.pinned.get('layout')?.set(KEY, this.announced);
    rmSync(join(this.pins, STAGED), { recursive: true, force: true });
  }

  close(): void {
    for (const map of this.pinned.values()) map.close();
    this.pinned.clear();
  }

  private openAll(): void {
    const folder = join(this.pins, 'maps');
    if (!existsSync(folder)) return;
    for (const name of readdirSync(folder)) this.pinned.set(name, BpfMap.openPinned(join(folder, name)));
  }

  private requireKnownLayout(): void {
    const { oldest, newest } = this.layouts();
    const version = this.pinned.get('layout')?.get(KEY)?.readUInt32LE() ?? oldest;
    if (version >= oldest && version <= newest) return;
    throw new UserError({
      code: 'LAYOUT_UNKNOWN',
      message: `the pinned maps in ${this.pins} have layout ${version}, and this build knows ${oldest === newest ? '' : `${oldest} to `}${newest}`,
      remedy: 'run the build that pinned them, recall what is away, `homeproxy down`; then start this one',
      exitStatus: 7,
    });
  }

  /** What the object says of itself: see enum layout_number. */
  private layouts(): { oldest: number; newest: number; filters: number } {
    const {
      LAYOUT_OLDEST: oldest = 1,
      LAYOUT_VERSION: newest = 1,
      LAYOUT_FILTERS: filters = newest,
    } = this.object.btf.enum('layout_number');
    return { oldest, newest, filters };
  }

  /** Counts of parked packets cannot be copied while packets are parked. */
  private requireNothingParked(): void {
    const devices = this.pinned.get('devices');
    const role = devices && Btf.ofMap(devices.info)?.value.fields?.find(({ name }) => name === 'role');
    const parking = devices?.getBatch().some(([, value]) => value[role?.offset ?? 0] === DeviceRole.park);
    if (parking !== true) return;
    throw new UserError({
      code: 'LAYOUT_BUSY',
      message: 'a process is being moved: this build counts parked packets in another way, and cannot take over now',
      remedy: 'run the previous build until the move is over (`homeproxy status`), then start this one',
      exitStatus: 7,
    });
  }
}

/** Ids of all maps that are pinned now: a program that uses one of them is ours. */
export function ownMapIds(pins: string): ReadonlySet<number> {
  const ids = new Set<number>();
  for (const folder of ['maps', STAGED, REPLACED].map((name) => join(pins, name)).filter(existsSync)) {
    for (const name of readdirSync(folder)) {
      const map = BpfMap.openPinned(join(folder, name));
      ids.add(map.id);
      map.close();
    }
  }
  return ids;
}

function fitting<Result>(name: string, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof Unfit)) throw error;
    throw new UserError({
      code: 'LAYOUT_UNFIT',
      message: `the pinned map "${name}" cannot be taken over: ${error.message}`,
      remedy: 'run the build that pinned it, recall what is away, `homeproxy down`; then start this one',
      exitStatus: 7,
      cause: error,
    });
  }
}

function replace(pins: string): void {
  const [maps, staged, replaced] = [join(pins, 'maps'), join(pins, STAGED), join(pins, REPLACED)];
  if (existsSync(maps)) renameSync(maps, replaced);
  renameSync(staged, maps);
  rmSync(replaced, { recursive: true, force: true });
}

/** After a crash: between the two renames what was staged is complete and in use; before them it is neither. */
function repair(pins: string): void {
  const [maps, staged, replaced] = [join(pins, 'maps'), join(pins, STAGED), join(pins, REPLACED)];
  if (existsSync(replaced) && !existsSync(maps) && existsSync(staged)) renameSync(staged, maps);
  for (const leftover of [staged, replaced]) rmSync(leftover, { recursive: true, force: true });
}
