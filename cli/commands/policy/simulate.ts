import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { loadPolicies } from '../../policy/policy-file.js';
import { readRecording } from '../../policy/recording.js';
import { type SimulationResult, simulate, type TimelineEntry } from '../../policy/simulation.js';
import { textTable } from '../../text-table.js';

export default class PolicySimulate extends BaseCommand {
  static override summary = 'Let policies decide over recorded facts, and print what they would have done.';
  static override description =
    `The engine is the daemon's. The records are what \`homeproxy policy facts --json\` printed, one on each line, or a JSON list of
them. What is decided happens in the simulation: a process is then where it was sent. Waiting is shown when its reason
changes. Moves nothing, needs no daemon.

Exit status: 0; 2 the policy file or the records cannot be read or have a fault.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %> config/policy.example.yaml --from metrics.json',
    {
      description: 'Record for an hour',
      command: 'while sleep 5; do <%= config.bin %> policy facts --json; done >> metrics.json',
    },
  ];
  static override args = { file: Args.string({ required: true, description: 'the policy file' }) };
  static override flags = {
    from: Flags.string({ required: true, description: 'recorded facts', helpValue: 'FILE' }),
    'move-seconds': Flags.integer({ description: 'how long a move takes', default: 2, min: 0, max: 3600 }),
  };

  async run(): Promise<SimulationResult> {
    const { args, flags } = await this.parse(PolicySimulate);
    const { policies } = await loadPolicies(args.file);
    const records = await readRecording(flags.from);
    const result = simulate(policies, records, flags['move-seconds'] * 1000);
    if (result.timeline.length > 0) {
      this.log(textTable(['time', 'policy', 'pid', 'name', 'what', 'from', 'to', 'why'], result.timeline.map(row)));
    }
    this.log(`${records.length} records, ${result.moves} moves`);
    return result;
  }
}

function row({ at, policy, pid, name, outcome, code, from, to, why }: TimelineEntry): (string | number)[] {
  const time = new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');
  return [time, policy, pid, name, code === undefined ? outcome : `wait: ${code}`, from, to ?? '', why];
}
