import { join } from 'node:path';
import { ConfiguredCommand } from '../../base-command.js';
import { labelsText } from '../../config/labels.js';
import { pidArgument } from '../../migrating-command.js';
import { callControl } from '../../node/control-transport.js';
import { explainMethod, type PolicyExplanation } from '../../node/policy-methods.js';
import type { Finding } from '../../policy/conditions.js';
import { durationText } from '../../policy/quantity.js';
import { textTable } from '../../text-table.js';

export default class PolicyExplain extends ConfiguredCommand {
  static override summary = 'Say what each policy would do with a process now, and why.';
  static override description =
    `Each condition with its present value; then what was decided about the process since the daemon started. Moves nothing.

Exit status: 0; 3 there is no such process, or this node has no policies; 7 no daemon.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %> 4242',
    '<%= config.bin %> <%= command.id %> 4242 --json',
  ];
  static override args = { pid: pidArgument };

  async run(): Promise<PolicyExplanation> {
    const { args } = await this.parse(PolicyExplain);
    const config = await this.loadConfig();
    const answer = await callControl(join(config.paths.run, 'control.sock'), explainMethod, { pid: args.pid });
    const { process, policies, decisions, problem } = answer;
    const labels = labelsText(process.labels);
    this.log(
      `process ${process.pid} (${process.name}) runs on ${process.location}${labels === '' ? '' : `, labelled ${labels}`}`,
    );
    if (problem !== undefined) this.log(`the policy file has faults, an older version is in force:\n${problem}`);
    for (const { policy, outcome, code, to, how, why, when, until } of policies) {
      const ways = how === undefined ? '' : ` (${how})`;
      const what = {
        move: `moves it to ${to}${ways}`,
        return: `brings it home${ways}`,
        wait: `waits (${code})`,
        stay: 'leaves it',
      };
      this.log(`${policy}: ${outcome === 'not-chosen' ? 'is not about it' : what[outcome]}: ${why}`);
      if (when !== undefined) this.tree('when', when, 1);
      if (until !== undefined) this.tree('until', until, 1);
    }
    if (decisions.length > 0) {
      const rows = decisions.slice(-20).map(({ at, policy, outcome, code, to, why }) => {
        const time = new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');
        return [time, policy, code === undefined ? outcome : `${outcome}: ${code}`, to ?? '', why];
      });
      this.log(textTable(['time', 'policy', 'decided', 'to', 'why'], rows));
    }
    return answer;
  }

  private tree(role: string, { text, truth, value, heldMs, forMs, parts }: Finding, depth: number): void {
    const label = role === '' ? '' : `${role}: `;
    const held = forMs === undefined ? '' : `, for ${durationText(heldMs ?? 0)} of ${durationText(forMs)}`;
    this.log(`${'  '.repeat(depth)}${truth.padEnd(8)}${label}${text}${value === undefined ? '' : `: ${value}`}${held}`);
    for (const part of parts ?? []) this.tree('', part, depth + 1);
  }
}
