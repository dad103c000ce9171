import { execFileSync } from 'node:child_process';
import type { Test } from 'uvu';
import type { Verdict } from '../../cli/process/description.js';
import { type Inspection, inspectProcess } from '../../cli/process/inspect.js';
import { readProcess } from '../../cli/system/procfs.js';
import { ip, Subject, until } from './private-world.js';

export const HOME = '10.77.0.2';
export const HOME_6 = 'fd77::2';
export const ANOTHER = '10.77.9.9';
export const REMOTE = '10.77.0.1';
export const REMOTE_6 = 'fd77::1';

/** Binds sockets by words like `tcp 10.77.0.2 6379`, or `tcp6 :: 80` for one that takes no IPv4, holds them, and sleeps. */
export const PRELUDE = `
import os, socket, sys, time
def bound(kind, address, port):
    kind, only, _ = kind.partition('6')
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    if only: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, port))
    if kind == 'tcp': s.listen(8)
    return s
def ready():
    with open('/proc/self/comm', 'w') as comm: comm.write('ready')
    time.sleep(3600)
`;

/** A program that holds such sockets. */
export function listening(...sockets: readonly string[]): string {
  const calls = sockets.map((words) => {
    const [kind, address, port] = words.split(' ');
    return `bound('${kind}', '${address}', ${port})`;
  });
  return `${PRELUDE}\nheld = [${calls.join(', ')}]\nready()`;
}

/** A program of {@link PRELUDE}, that has said that it is ready. */
export async function start(source: string): Promise<Subject> {
  const subject = Subject.silent(source);
  await until('the program is ready', () => readProcess(subject.pid)?.comm === 'ready');
  return subject;
}

/** As a node with both home addresses sees a process. */
export function inspect(pid: number, ownPids: readonly number[] = [process.pid]): Inspection {
  return inspectProcess(pid, { homeAddresses: [HOME, HOME_6], ownPids });
}

export const codes = (verdicts: readonly Verdict[]): string[] => verdicts.map(({ code }) => code);

/** Adds a test: runs its body with one program, and ends it after. */
export function about(test: Test, what: string, source: string, body: (pid: number) => void | Promise<void>): void {
  test(what, async () => {
    const subject = await start(source);
    try {
      await body(subject.pid);
    } finally {
      subject.kill();
    }
  });
}

export const portsOf = (pid: number): string[] =>
  inspect(pid).description.ports.map(
    ({ protocol, address, port, exclusive }) => `${protocol} ${address} ${port}${exclusive ? '' : ' shared'}`,
  );

/** Gives the private world its addresses and a neighbour on a link. @returns a process in the neighbour's network namespace */
export async function addressWorld(): Promise<Subject> {
  const remote = await start(`${PRELUDE}\nimport ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\nready()`);
  ip('link add away0 type veth peer name away1', `address add ${HOME}/24 dev away0`);
  ip(
    `address add ${HOME_6}/64 dev away0 nodad`,
    `address add ${ANOTHER}/32 dev away0`,
    'link set away0 up',
    'link set away1 up',
  );
  ip(`link set away1 netns ${remote.pid}`);
  const there = ['-t', String(remote.pid), '-n', '--', 'ip'];
  execFileSync('nsenter', [...there, 'address', 'add', `${REMOTE}/24`, 'dev', 'away1']);
  execFileSync('nsenter', [...there, 'address', 'add', `${REMOTE_6}/64`, 'dev', 'away1', 'nodad']);
  execFileSync('nsenter', [...there, 'link', 'set', 'away1', 'up']);
  return remote;
}
