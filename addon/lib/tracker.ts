import { fileURLToPath } from 'node:url';
import { native } from './native.js';

/**
 * Begins to track where a process writes (userfaultfd in asynchronous write protection, Linux 6.7). One of its threads stands
 * still for some tenths of a millisecond; nothing of it is left in the process, and closing the descriptor ends it.
 * @returns a descriptor for {@link scanWritten}; close it with `fs.closeSync`.
 * @throws {BpfError} ENOTSUP on another machine than x86-64 and for a 32-bit process; EINVAL before Linux 6.7; EBUSY when it is
 * stopped, or our own child; EPERM when it is traced, EMFILE when it has no free descriptor, ESRCH when it has ended.
 */
export function trackWrites(pid: number): Promise<number> {
  return native.trackWrites(pid);
}

/**
 * The pages of a process that were written since the last call, or not asked about before: those that are in memory or swapped
 * out, not a file's, and not the kernel's zero page.
 * @param mappings start and end of each, page-aligned; private, anonymous and readable ones.
 * @returns start and end of each range, in the order of the mappings.
 * @throws {BpfError} ENOENT, ESRCH when the process has ended.
 */
export function scanWritten(tracker: number, pid: number, mappings: BigUint64Array): Promise<BigUint64Array> {
  return native.scanWritten(tracker, pid, mappings);
}

/**
 * The same when the process stands still, and for the last time: nothing is armed again.
 * @returns the pages that were written, and all that hold something. @throws {BpfError} as {@link scanWritten}
 */
export async function scanLast(
  pid: number,
  mappings: BigUint64Array,
): Promise<{ readonly written: BigUint64Array; readonly present: BigUint64Array }> {
  const [written, present] = await native.scanLast(pid, mappings);
  return { written, present };
}

/**
 * Loads the iterator of {@link mappingFlags}.
 * @param object bpf/build/mappings.bpf.o @returns a descriptor; close it with `fs.closeSync`.
 * @throws {BpfError} EPERM without CAP_BPF and CAP_PERFMON; a kernel without such iterators, or without its types.
 */
export function loadMappingFlags(object: string): Promise<number> {
  return native.loadMappingFlags(object);
}

/**
 * The mappings of a task, without a look at their pages.
 * @returns start, end and flags of each (`vm_flags` of this kernel: the bits differ between kernels); none when it has ended.
 * @throws {BpfError} EINVAL before Linux 6.1.
 */
export function mappingFlags(program: number, task: number): Promise<BigUint64Array> {
  return native.mappingFlags(program, task);
}

/** The object that CRIU loads to leave large memory to us (src/criu-memory.c). */
export function criuMemoryLibrary(): string {
  return fileURLToPath(new URL('../../../addon/build/Release/criu-memory.node', import.meta.url));
}

/** The program that brings the memory that a restored process does not have yet (src/pager.cc). */
export function pagerProgram(): string {
  return fileURLToPath(new URL('../../../addon/build/Release/pager', import.meta.url));
}
