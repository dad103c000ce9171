import { readText } from '../system/procfs.js';

/** Whether a descriptor may write: the access mode in fdinfo, octal, has O_WRONLY or O_RDWR in its last two bits (proc(5)). */
export function opensForWriting(pid: number, fd: number): boolean {
  const flags = /^flags:\s+([0-7]+)/m.exec(readText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1] ?? '0';
  return (Number.parseInt(flags, 8) & 3) !== 0;
}
