import { join } from 'node:path';
import { Args } from '@oclif/core';
import { ConfiguredCommand } from '../../base-command.js';
import { labelsText } from '../../config/labels.js';
import { readSettings } from '../../config/load.js';
import { callControl } from '../../node/control-transport.js';
import { factsMethod } from '../../node/policy-methods.js';
import type { Facts } from '../../policy/facts.js';
import { parsePolicies } from '../../policy/policy-file.js';
import { bytesText } from '../../policy/quantity.js';
import { textTable } from '../../text-table.js';

export default class PolicyFacts extends ConfiguredCommand {
  static override summary =
    'Show what policies would be decided upon now: nodes, queries, and the processes they choose.';
  static override description =
    `With --json it is a record for \`homeproxy policy simulate\`. Without FILE, for the policies of this node; with one, for those
in it: so that a new file can be tried on recorded facts before it is put in place.

Exit status: 0; 2 the file has faults; 3 this node has no policies; 7 no daemon.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    { description: 'Record', command: '<%= config.bin %> <%= command.id %> new-policies.yaml --json >> metrics.json' },
  ];
  static override args = { file: Args.string({ description: 'a policy file; default: that of this node' }) };

  async run(): Promise<Facts> {
    const { args } = await this.parse(PolicyFacts);
    const config = await this.loadConfig();
    const policies = args.file === undefined ? undefined : await readSettings(args.file);
    if (policies !== undefined) {
      parsePolicies(policies, args.file ?? '', config.nodes); // its faults, with the file's name
    }
    const request = policies === undefined ? {} : { policies };
    const facts = await callControl(join(config.paths.run, 'control.sock'), factsMethod, request);
    this.render(facts);
    return facts;
  }

  private render({ hosts, queries, processes }: Facts): void {
    const nodes = Object.entries(hosts).map(([name, { reachable, facts, labels = {} }]) => [
      name,
      reachable ? (facts?.draining === true ? 'being drained' : 'answers') : 'unreachable',
      facts?.load1 === undefined ? '' : `${facts.load1} on ${facts.cpus ?? '?'} CPUs`,
      facts?.memory === undefined ? '' : bytesText(facts.memory.availableBytes),
      (['cpu', 'memory', 'io'] as const).map((kind) => facts?.pressure?.[kind].some.avg10 ?? '?').join(' '),
      Object.entries(facts?.disks ?? {})
        .map(([path, { freeBytes }]) => `${path} ${bytesText(freeBytes)}`)
        .join(', '),
      labelsText(labels),
    ]);
    this.log(textTable(['node', 'state', 'load', 'available', 'cpu memory io', 'free', 'labels'], nodes));
    for (const [query, answer] of Object.entries(queries)) {
      this.log(`${query}: ${'error' in answer ? answer.error : answer.values.join(' ')}`);
    }
    if (processes.length === 0) this.log('no policy chooses a process');
    else {
      const rows = processes.map(({ pid, name, user, uid, location, ports, residentBytes, labels }) => [
        pid,
        name,
        user || (uid ?? ''),
        location,
        ports.join(' '),
        bytesText(residentBytes),
        labelsText(labels),
      ]);
      this.log(textTable(['pid', 'name', 'user', 'runs on', 'ports', 'memory', 'labels'], rows));
    }
  }
}
