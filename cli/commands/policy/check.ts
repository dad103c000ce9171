import { existsSync } from 'node:fs';
import { Args } from '@oclif/core';
import { ConfiguredCommand } from '../../base-command.js';
import { loadPolicies } from '../../policy/policy-file.js';

interface PolicyCheckResult {
  readonly file: string;
  readonly policies: readonly string[];
  /** Whether the names and labels of nodes were compared with the configuration. */
  readonly nodesChecked: boolean;
}

export default class PolicyCheck extends ConfiguredCommand {
  static override summary = 'Check a policy file.';
  static override description =
    `Every problem on a line of its own: file:line:column: setting: what it must be. Names and labels of nodes are compared
with the configuration, if there is one. Needs no daemon.

Exit status: 0 it is right; 2 it is not, or cannot be read.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %> /etc/homeproxy/policies.yaml',
    '<%= config.bin %> <%= command.id %> config/policy.example.yaml --json',
  ];
  static override args = { file: Args.string({ required: true, description: 'the policy file' }) };

  async run(): Promise<PolicyCheckResult> {
    const { args, flags } = await this.parse(PolicyCheck);
    const config = existsSync(flags.config) ? await this.loadConfig() : undefined;
    const { policies } = await loadPolicies(args.file, config?.nodes);
    const names = policies.map(({ name }) => name);
    const beside =
      config === undefined ? `; names and labels of nodes were not checked: there is no ${flags.config}` : '';
    this.log(
      `${args.file} is right: ${count(names.length)}${names.length === 0 ? '' : ` (${names.join(', ')})`}${beside}`,
    );
    return { file: args.file, policies: names, nodesChecked: config !== undefined };
  }
}

function count(policies: number): string {
  return policies === 1 ? '1 policy' : `${policies} policies`;
}
