import { type OpenDescriptor, readProcess, readText } from '../system/procfs.js';
import type { Verdict } from './description.js';
import type { Holder } from './sockets.js';
import { refused } from './verdicts.js';

/** A descriptor of a process of the tree. */
export interface TreeDescriptor extends OpenDescriptor {
  readonly pid: number;
}

/** Anonymous inodes that CRIU 4.2 carries (its dump_one_file), whatever is in them; some of the others are told apart. */
const CARRIED = new Set(['[eventpoll]', '[signalfd]', '[timerfd]', '[pidfd]', 'inotify', '[fanotify]']);
const REFUSED: Readonly<Record<string, readonly [code: string, reason: string, remedy: string]>> = {
  '[io_uring]': [
    'IO_URING',
    'it uses io_uring, whose rings CRIU cannot save',
    'switch io_uring off in the program (most have a setting for it) and restart it',
  ],
  '[userfaultfd]': [
    'USERFAULTFD',
    'it handles its own page faults (userfaultfd), which CRIU cannot save',
    'let the program do without: a JVM or a virtual machine monitor has a setting for it',
  ],
  '[perf_event]': [
    'PERF_EVENT',
    "it counts events of this machine's processors (perf), which CRIU cannot save",
    'end the measurement first',
  ],
};
const BPF = [
  'BPF',
  'it holds an eBPF program, map or link, which belongs to this kernel',
  'leave the program where its eBPF programs are attached',
] as const;

/** What descriptors say by their names alone: pipes, terminals, and kinds that no CRIU can save. */
export function descriptorVerdicts(
  descriptors: readonly TreeDescriptor[],
  heldOutside: ReadonlyMap<string, Holder>,
): Verdict[] {
  const verdicts: Verdict[] = [];
  const pipes = new Map<string, string>();
  for (const { pid, fd, target } of descriptors) {
    const subject = `fd ${fd} of pid ${pid}`;
    if (target.startsWith('pipe:')) pipes.set(target, subject);
    else if (target === 'anon_inode:[eventfd]') verdicts.push(...semaphoreVerdicts(pid, fd));
    else if (target.startsWith('anon_inode:')) verdicts.push(...kindVerdicts(target.slice(11), subject));
  }
  for (const [target, subject] of pipes) verdicts.push(...foreignPipe(target, subject, heldOutside));
  return [...verdicts, ...terminalVerdicts(descriptors)];
}

function kindVerdicts(kind: string, subject: string): Verdict[] {
  if (CARRIED.has(kind)) return [];
  const [code, reason, remedy] = REFUSED[kind] ??
    (/^\[?bpf/.test(kind) ? BPF : undefined) ?? [
      'DESCRIPTOR_KIND',
      `it has a descriptor of the kind ${kind.replace(/^\[(.*)\]$/, '$1')}, which CRIU cannot save`,
      'let the program close it, or leave the program where it is',
    ];
  return [refused(code, subject, reason, remedy)];
}

/** An eventfd that counts down by one (EFD_SEMAPHORE); fdinfo tells since Linux 6.5. CRIU 4.2 makes an ordinary one of it. */
function semaphoreVerdicts(pid: number, fd: number): Verdict[] {
  if (!/^eventfd-semaphore:\s*1$/m.test(readText(`/proc/${pid}/fdinfo/${fd}`) ?? '')) return [];
  return [
    refused(
      'EVENTFD_SEMAPHORE',
      `fd ${fd} of pid ${pid}`,
      'it has an eventfd that is a semaphore, which CRIU would make an ordinary counter: one reader would take all at once',
      'let the program use a semaphore in shared memory, or leave it where it is',
    ),
  ];
}

/** A pipe or FIFO that somebody outside the tree has open too. */
export function foreignPipe(target: string, subject: string, heldOutside: ReadonlyMap<string, Holder>): Verdict[] {
  const holder = heldOutside.get(target)?.pid;
  if (holder === undefined) return [];
  return [
    refused(
      'FOREIGN_PIPE',
      subject,
      `the other end of ${target} is held by pid ${holder} (${readProcess(holder)?.comm ?? '?'}), outside the process`,
      'start the program with its output in a file, the journal or /dev/null; or move the whole pipeline',
    ),
  ];
}

/** A terminal moves with its master: a tree that has both ends (tmux, script) carries its screen. */
function terminalVerdicts(descriptors: readonly TreeDescriptor[]): Verdict[] {
  const terminals = descriptors.filter(({ target }) =>
    /^\/dev\/(pts\/\d+|tty\d*|ttyS\d+|console)( \(deleted\))?$/.test(target),
  );
  if (terminals.length === 0) return [];
  const own = new Set(ownTerminals(descriptors).map((number) => `/dev/pts/${number}`));
  return terminals
    .filter(({ target }) => !(own.has(target.replace(/ \(deleted\)$/, '')) || (target === '/dev/tty' && own.size > 0)))
    .map(({ pid, fd, target }) =>
      refused(
        'FOREIGN_TERMINAL',
        `fd ${fd} of pid ${pid}`,
        `it is attached to the terminal ${target}, which somebody outside the process holds`,
        'start the program without a terminal: `setsid PROGRAM </dev/null >/dev/null 2>&1 &`, or as a service',
      ),
    );
}

/** Numbers of the terminals whose masters are among these (fdinfo of /dev/ptmx, kernel 4.17). */
export function ownTerminals(descriptors: readonly TreeDescriptor[]): number[] {
  const numbers = descriptors
    .filter(({ target }) => /^\/dev\/(pts\/)?ptmx$/.test(target))
    .map(({ pid, fd }) => /^tty-index:\s*(\d+)$/m.exec(readText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1]);
  return [...new Set(numbers.filter((number) => number !== undefined).map(Number))];
}
