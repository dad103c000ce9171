import { mkdirSync } from 'node:fs';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { run } from '../../cli/system/command.js';
import { installProgram } from './c-program.js';

/** Gives nodes a folder in common, as a network file system would: the first has it, the others see it at the same path. */
export async function shareFolder(folder: string, owner: LabNode, ...others: LabNode[]): Promise<void> {
  for (const node of [owner, ...others]) mkdirSync(node.path(folder), { recursive: true });
  const program = owner.path(await installProgram('share-folder', owner));
  for (const { initPid } of others) await run(program, [String(owner.initPid), String(initPid), folder]);
}
