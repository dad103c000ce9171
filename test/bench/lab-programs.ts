import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';

const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const UNPACK_MS = 300_000;

/**
 * The environment in which the programs are found that a benchmark compares with, and the traffic tools; unpacks those that the
 * machine lacks.
 * @throws {ExternalError} `COMMAND_FAILED` with what the set-up said
 */
export async function benchEnvironment(of: 'datapath' | 'migration', signal: AbortSignal): Promise<NodeJS.ProcessEnv> {
  const options = { signal, timeoutMs: UNPACK_MS };
  const { stdout } = await run('bash', [projectFile('config/setup/bench-programs.sh'), of], options);
  const prefix = stdout.trim();
  if (prefix === '') return {};
  const libraries = join(prefix, 'usr/lib');
  const architecture = readdirSync(libraries).find((name) => name.includes('-linux-')) ?? '';
  const programs = ['usr/sbin', 'usr/bin'].map((folder) => join(prefix, folder));
  return {
    PATH: [...programs, process.env.PATH, SYSTEM_PATH].filter(Boolean).join(':'),
    LD_LIBRARY_PATH: join(libraries, architecture),
    XTABLES_LIBDIR: join(libraries, architecture, 'xtables'),
  };
}
