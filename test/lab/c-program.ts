import { setTimeout as sleep } from 'node:timers/promises';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { readInternetSockets } from '../../cli/process/sockets.js';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';

/**
 * Compiles `test/lab/<name>.c` and puts the program into nodes: the very same file, as a package would.
 * @returns where each node has it
 */
export async function installProgram(name: string, ...nodes: LabNode[]): Promise<string> {
  return await installFrom('lab', name, ...nodes);
}

/** The same with a program from another folder of the tests. */
export async function installFrom(room: string, name: string, ...nodes: LabNode[]): Promise<string> {
  const path = `/run/${name}`;
  const { stdout } = await run('mktemp', ['-d', `/tmp/${name}-XXXXXX`]);
  const folder = stdout.trim();
  try {
    await run('clang', ['-O2', '-Wall', '-o', `${folder}/${name}`, projectFile(`test/${room}/${name}.c`), '-lm']);
    for (const node of nodes) await run('cp', ['-p', `${folder}/${name}`, node.path(path)]);
  } finally {
    await run('rm', ['-rf', folder]);
  }
  return path;
}

/** Starts a server in a node and waits until it has a socket on its port. @returns its pid in the node */
export async function startServer(
  node: LabNode,
  command: readonly string[],
  port: number,
  limitMs = 10_000,
): Promise<number> {
  const pid = await node.detach(command);
  for (const deadline = Date.now() + limitMs; Date.now() < deadline; await sleep(5)) {
    const machinePid = node.machinePid(pid);
    if (machinePid === undefined) break;
    if (readInternetSockets(machinePid).some(({ local }) => local.port === port)) return pid;
  }
  throw new Error(`${command.join(' ')} has no socket on port ${port}`);
}
