import { join } from 'node:path';
import { run } from '../../cli/system/command.js';
import { packageVersion, projectFile } from '../../cli/system/project.js';

/** npm tells every script that it runs of its own settings: an npm inside it is to begin afresh. */
export const ENVIRONMENT = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)));

const QUIET = ['--no-audit', '--no-fund'];
const LIMIT_MS = 500_000; // it compiles, on a machine that does other things as well

/** Packs this checkout as it is built. @returns the path of the package */
export async function pack(folder: string): Promise<string> {
  const options = { env: ENVIRONMENT, cwd: folder, timeoutMs: LIMIT_MS };
  await run('npm', ['pack', projectFile(''), '--ignore-scripts'], options);
  return join(folder, `homeproxy-${packageVersion()}.tgz`);
}

/**
 * Installs a package globally into a prefix of its own. npm looks for its global configuration below the prefix: it is told to take
 * the machine's, which may say how the registry is reached (a mirror, a certificate authority).
 * @param more further arguments of `npm install`
 */
export async function installGlobally(archive: string, prefix: string, more: readonly string[] = []): Promise<void> {
  const { stdout } = await run('npm', ['config', 'get', 'globalconfig'], { env: ENVIRONMENT });
  const places = ['--prefix', prefix, '--globalconfig', stdout.trim()];
  const options = { env: ENVIRONMENT, cwd: '/', timeoutMs: LIMIT_MS };
  await run('npm', ['install', '--global', ...places, ...QUIET, ...more, archive], options);
}
