import { run } from './command.js';

/** How many classifiers hang on an interface's clsact qdisc, whoever put them there. @throws {ExternalError} */
export async function countTcFilters(device: string): Promise<number> {
  let filters = 0;
  for (const direction of ['ingress', 'egress']) {
    const { stdout } = await run('tc', ['-j', 'filter', 'show', 'dev', device, direction]);
    // tc prints one row for the filter's priority and one for each classifier in it
    const rows = stdout.trim() === '' ? [] : (JSON.parse(stdout) as { options?: unknown }[]);
    filters += rows.filter((row) => row.options !== undefined).length;
  }
  return filters;
}
