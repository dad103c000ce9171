/*
 * node dist/test/bench/make-bindings-main.js <count>
 * Runs on a home whose daemon does not: makes bindings after the pattern of its first process that is away, each with the next
 * ports and pid, by the code that rebuilds a home's memory. The daemon takes them up when it starts.
 */
import { pino } from 'pino';
import { DEFAULT_CONFIG_PATH } from '../../cli/base-command.js';
import { loadConfig, ownNode } from '../../cli/config/load.js';
import { BugError } from '../../cli/errors.js';
import { Journal } from '../../cli/migration/journal.js';
import { PortLeases } from '../../cli/migration/port-leases.js';
import { Twins } from '../../cli/migration/twins.js';
import { openForwarding } from '../../cli/node/forwarding-setup.js';

const count = Number(process.argv[2]);
const config = await loadConfig(DEFAULT_CONFIG_PATH);
const { name, address } = ownNode(config);
const journal = new Journal(config.paths.state);
const forwarding = await openForwarding(config, { name, address }, journal, pino({ enabled: false }));
const twins = new Twins(journal, forwarding, new PortLeases(journal.portLeases, 0));
await twins.adopt();
const [first] = twins.all();
if (first === undefined) throw new BugError('no process of this home is away');
const { description, location } = first.record;
for (let next = 1; next <= count; next++) {
  const homePid = description.homePid + next;
  const ports = description.ports.map((port) => ({ ...port, port: port.port + next }));
  const like = { ...description, homePid, pids: [homePid], ports };
  await twins.rebuild({ twin: `${name}-${homePid}-made`, description: like, epoch: 1, location });
}
forwarding.neighbours.close();
forwarding.monitor.close();
forwarding.datapath.close();
await journal.close();
