import { join } from 'node:path';
import { run } from '../cli/system/command.js';
import { projectFile } from '../cli/system/project.js';

const UNPACK_MS = 300_000;

/**
 * Paths of the programs of Prometheus; unpacks them first where the machine has none.
 * @throws {ExternalError} `COMMAND_FAILED` with what the set-up said
 */
export async function prometheusPrograms(): Promise<{ readonly prometheus: string; readonly promtool: string }> {
  const { stdout } = await run('bash', [projectFile('config/setup/prometheus.sh')], { timeoutMs: UNPACK_MS });
  const folder = stdout.trim();
  return { prometheus: join(folder, 'prometheus'), promtool: join(folder, 'promtool') };
}
