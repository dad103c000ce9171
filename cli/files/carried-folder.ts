import { existsSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';

/** Of a process that ended away from home: nobody has come for its files. */
const ENDED = '.ended';

interface Place {
  readonly carriedRoot: string;
}

/** Where a node has the files of a process that lives there with files of its own. */
export function carriedFolder({ carriedRoot }: Place, twin: string): string {
  return join(carriedRoot, twin);
}

/** Where the files of a process stay that ended away from home. */
export function keptFolder(folder: string): string {
  return `${folder}${ENDED}`;
}

export function keepFolder(folder: string): void {
  if (existsSync(folder)) renameSync(folder, keptFolder(folder));
}

/** The folders of carried files that are here, without those that are kept for somebody to look at. */
export function carriedFolders({ carriedRoot }: Place): string[] {
  if (!existsSync(carriedRoot)) return [];
  return readdirSync(carriedRoot)
    .filter((name) => !name.endsWith(ENDED))
    .map((name) => join(carriedRoot, name));
}
