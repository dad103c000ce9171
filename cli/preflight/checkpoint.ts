import { criuVersion, findCriu } from '../checkpoint/criu.js';
import type { ExternalError, HomeproxyError, UserError } from '../errors.js';
import { run } from '../system/command.js';
import { projectFile } from '../system/project.js';
import { type Finding, failed, ok } from './finding.js';

/**
 * Whether the CRIU here really works: its own `criu check` says "Looks good" on kernels where it cannot dump a socket, so a
 * process with a connected TCP socket is dumped and restored, in namespaces of its own.
 */
export async function checkCheckpoint(configured: string): Promise<Finding[]> {
  let path: string;
  try {
    path = findCriu(configured);
  } catch (error) {
    const { message, remedy } = error as UserError;
    return [failed('criu', message, remedy ?? '')];
  }
  const findings = [ok('criu', `${path}, version ${await criuVersion(path)}`)];
  try {
    const { stdout } = await run(projectFile('config/setup/criu-proof.sh'), [path], { timeoutMs: 60_000 });
    findings.push(ok('criu-proof', stdout.trim() || 'a process with a connected TCP socket was dumped and restored'));
  } catch (error) {
    const { message } = error as HomeproxyError;
    const log = (error as Partial<ExternalError>).log ?? [];
    const detail = [message, ...log].join('; ');
    findings.push(failed('criu-proof', detail, 'install a CRIU that works with this kernel: config/setup.sh'));
  }
  return findings;
}
