import { existsSync } from 'node:fs';
import type { Config } from '../config/load.js';
import { UserError } from '../errors.js';
import { Datapath } from '../forwarding/datapath.js';
import { Journal } from '../migration/journal.js';
import { PortLeases } from '../migration/port-leases.js';
import { removePodRoot } from '../pod/pod.js';
import { datapathRun } from './forwarding-setup.js';

/** What `homeproxy down` does when no daemon runs: the same, on what a daemon left attached. Attaches and loads nothing. */
export async function detachWithoutDaemon(config: Config, force: boolean): Promise<string[]> {
  if (!existsSync(config.paths.bpf)) return removePodRoot();
  const journal = new Journal(config.paths.state);
  try {
    const needed = journal.twins.all().length + journal.residents.all().length;
    if (needed > 0 && !force) {
      throw new UserError({
        code: 'STILL_NEEDED',
        message: `${needed} processes are away or live here for another home: the datapath is still needed`,
        remedy: 'start the daemon (`homeproxy up`) and recall them; --force cuts their connections',
      });
    }
    new PortLeases(journal.portLeases, 0).releaseAll();
  } finally {
    await journal.close();
  }
  return [...(await Datapath.removeLeft({ pins: config.paths.bpf, run: datapathRun(config) })), ...removePodRoot()];
}
