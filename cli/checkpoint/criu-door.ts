import { closeSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { cloneMount, inMountNamespace, type MountStep } from '../../addon/lib/index.js';
import { ExternalError } from '../errors.js';
import { run } from '../system/command.js';

/** Where a pod with a root of its own has CRIU and a folder of images, for as long as CRIU runs there. */
const DOOR = '/.homeproxy';
const IMAGES = `${DOOR}/images`;
/** A loader that a program names: ld-linux-x86-64.so.2, ld-linux-aarch64.so.1. */
const LOADER = /^ld-linux|^ld64|^ld-musl/;

/** Needs the C library alone, and a newer one is as good. */
const SETSID = '/usr/bin/setsid';

interface Door {
  readonly command: string[];
  readonly leader: string[];
  readonly images: string;
}

const libraries = new Map<string, readonly string[]>();

/** The libraries of a program and its loader, as the loader itself finds them (ld.so(8), LD_TRACE_LOADED_OBJECTS). */
async function librariesOf(program: string): Promise<readonly string[]> {
  const { ino, mtimeMs } = statSync(program);
  const key = `${program} ${ino} ${mtimeMs}`;
  const known = libraries.get(key);
  if (known !== undefined) return known;
  const { stdout } = await run(program, [], { env: { LD_TRACE_LOADED_OBJECTS: '1' } });
  const found = parseLoaded(stdout);
  libraries.set(key, found);
  return found;
}

/** The paths in what a loader prints of the objects that it loads. */
export function parseLoaded(text: string): string[] {
  return text.split('\n').flatMap((line) => /^\s+(?:\S+ => )?(\/\S+) \(/.exec(line)?.[1] ?? []);
}

/**
 * Lets CRIU into a pod that has a root of its own, read-only, with the images of one run.
 * @param preloads libraries that are loaded into CRIU.
 * @returns the command line with which CRIU starts there, that which makes a session for it, and where it has the images.
 * @throws {ExternalError} `NO_LOADER`.
 */
export async function openDoor(init: number, criu: string, images: string, preloads: readonly string[]): Promise<Door> {
  const files = [...(await librariesOf(criu)), criu, ...preloads, SETSID];
  const loader = files.find((path) => LOADER.test(basename(path)));
  if (loader === undefined) {
    throw new ExternalError({ code: 'NO_LOADER', message: 'CRIU names no loader', command: criu, log: files });
  }
  const trees: number[] = [];
  const attached = (path: string, at: string, readOnly: boolean): MountStep => {
    const tree = cloneMount(path, readOnly);
    trees.push(tree);
    return { do: 'attach', tree, path: at };
  };
  closeDoor(init); // one that a killed daemon has left
  try {
    inMountNamespace(init, [
      { do: 'mkdir', path: DOOR, mode: 0o700 },
      { do: 'mount', source: 'homeproxy', path: DOOR, type: 'tmpfs', data: 'mode=0700' },
      ...files.flatMap((path): MountStep[] => {
        const at = `${DOOR}/${basename(path)}`;
        return [{ do: 'touch', path: at }, attached(path, at, true)];
      }),
      { do: 'mkdir', path: IMAGES, mode: 0o700 },
      attached(images, IMAGES, false),
    ]);
  } finally {
    for (const tree of trees) closeSync(tree);
  }
  const inside = (path: string): string => `${DOOR}/${basename(path)}`;
  const load = [inside(loader), '--library-path', DOOR];
  return {
    command: [...load, '--preload', preloads.map(inside).join(':'), inside(criu)],
    leader: [...load, inside(SETSID), '--wait'],
    images: IMAGES,
  };
}

/** Takes CRIU and its images out of a pod's sight; what is not there is fine. */
export function closeDoor(init: number): void {
  inMountNamespace(init, [
    { do: 'detach', path: DOOR },
    { do: 'rmdir', path: DOOR },
  ]);
}
