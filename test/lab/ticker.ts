import type { LabNode } from '../../cli/lab/lab-node.js';
import { installProgram } from './c-program.js';
import type { LineClient } from './line-client.js';

/** Where a node has the program, once {@link installTicker} has put it there. */
export const TICKER = '/run/ticker';

/** Compiles `ticker.c` and puts it into nodes. */
export async function installTicker(...nodes: LabNode[]): Promise<void> {
  await installProgram('ticker', ...nodes);
}

export interface Ticks {
  readonly awakenings: number;
  /** The longest that it stood still since it was asked before, without waiting for a processor, in milliseconds. */
  readonly stoodStillMs: number;
  /** How often it was stopped or signalled since then, however shortly. */
  readonly interruptions: number;
}

/** Asks a ticker on a connection to it. */
export async function askTicker(client: Pick<LineClient, 'ask'>): Promise<Ticks> {
  const [awakenings = 0, stoodStill = 0, interruptions = 0] = (await client.ask('?')).split(' ').map(Number);
  return { awakenings, stoodStillMs: stoodStill / 1000, interruptions };
}
