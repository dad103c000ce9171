import { join } from 'node:path';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';

/** A folder that each node of a lab has for itself. */
export const APP = '/home/ledger';

/** Compiles the server and its library in two versions. @returns the folder, which the caller removes */
export async function buildLedger(): Promise<string> {
  const folder = (await run('mktemp', ['-d', '/tmp/ledger-XXXXXX'])).stdout.trim();
  const source = projectFile('test/lab/ledger.c');
  const library = (version: number): string => join(folder, `libledger.so.${version}`);
  for (const version of [1, 2]) {
    const shared = ['-shared', '-fPIC', `-DLIBRARY=${version}`, '-Wl,-soname,libledger.so.1'];
    await run('clang', ['-O2', ...shared, '-o', library(version), source]);
  }
  await run('clang', ['-O2', '-o', join(folder, 'ledger'), source, library(1), `-Wl,-rpath,${APP}/lib`]);
  return folder;
}
