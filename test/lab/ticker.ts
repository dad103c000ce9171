import type { LabNode } from '../../cli/lab/lab-node.js';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';
import type { LineClient } from './line-client.js';

/** Where a node has the program, once {@link installTicker} has put it there. */
export const TICKER = '/run/ticker';

/** Compiles `ticker.c` and puts it into nodes: the very same file, as a package would. */
export async function installTicker(...nodes: LabNode[]): Promise<void> {
  const { stdout } = await run('mktemp', ['-d', '/tmp/ticker-XXXXXX']);
  const folder = stdout.trim();
  try {
    await run('clang', ['-O2', '-Wall', '-o', `${folder}/ticker`, projectFile('test/lab/ticker.c')]);
    for (const node of nodes) await run('cp', ['-p', `${folder}/ticker`, node.path(TICKER)]);
  } finally {
    await run('rm', ['-rf', folder]);
  }
}

export interface Ticks {
  readonly awakenings: number;
  /** The longest that it stood still since it was asked before, without waiting for a processor, in milliseconds. */
  readonly stoodStillMs: number;
}

/** Asks a ticker on a connection to it. */
export async function askTicker(client: LineClient): Promise<Ticks> {
  const [awakenings = 0, stoodStill = 0] = (await client.ask('?')).split(' ').map(Number);
  return { awakenings, stoodStillMs: stoodStill / 1000 };
}
