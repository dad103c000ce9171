import { constants } from 'node:fs';
import { readText } from '../system/procfs.js';

/** Whether a descriptor may write: the access mode has O_WRONLY or O_RDWR in its last two bits. */
export function opensForWriting(pid: number, fd: number): boolean {
  return (flagsOf(pid, fd) & 3) !== 0;
}

/** Whether what is written through a descriptor goes to the end of the file (O_APPEND). */
export function opensToAppend(pid: number, fd: number): boolean {
  return (flagsOf(pid, fd) & constants.O_APPEND) !== 0;
}

/** Octal in fdinfo (proc(5)); 0 when it is closed. */
function flagsOf(pid: number, fd: number): number {
  const flags = /^flags:\s+([0-7]+)/m.exec(readText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1] ?? '0';
  return Number.parseInt(flags, 8);
}
