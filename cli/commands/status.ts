import { join } from 'node:path';
import { ConfiguredCommand } from '../base-command.js';
import { type StatusReport, statusMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';

export default class Status extends ConfiguredCommand {
  static override summary = "Show what this node's daemon does: interfaces, bindings, packets by reason.";
  static override description = 'Exit status: 0; 7 no daemon.';
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --json'];

  async run(): Promise<StatusReport> {
    const config = await this.loadConfig();
    const report = await callControl(join(config.paths.run, 'control.sock'), statusMethod, {});
    this.log(
      `${report.node} (${report.address}), homeproxy ${report.version}, daemon ${report.pid}, up since ${new Date(report.startedAt).toISOString()}`,
    );
    for (const { interface: name, mode, reason, classifier: tc } of report.uplinks)
      this.log(`  ${name}: ${mode} (${reason})${tc === undefined ? '' : `; tc programs by ${tc.by} (${tc.reason})`}`);
    this.log(
      `  ${report.departed} away, ${report.residents} here for another home, ${report.moving.length} moving, ${report.bindings} bindings`,
    );
    for (const { pid, comm, from, missingBytes } of report.incomplete ?? [])
      this.log(
        `  ${comm} (${pid} at home) runs here; ${(missingBytes / 2 ** 20).toFixed(1)} MiB of its memory are on ${from} yet`,
      );
    for (const { pid, comm, to, missingBytes, trouble } of report.kept ?? [])
      this.log(
        `  ${comm} (${pid} at home) runs on ${to}; ${(missingBytes / 2 ** 20).toFixed(1)} MiB of its memory are kept here${trouble === undefined ? '' : `, and cannot be sent: ${trouble}`}`,
      );
    for (const line of metricsLines(report)) this.log(line);
    const counted = report.counters.filter(({ packets }) => packets > 0);
    for (const { hook, reason, packets, bytes } of counted) {
      this.log(
        `  ${hook.padEnd(8)} ${reason.padEnd(22)} ${String(packets).padStart(12)} packets ${String(bytes).padStart(15)} bytes`,
      );
    }
    return report;
  }
}

function metricsLines({ metrics }: StatusReport): string[] {
  if (metrics?.state === 'served') return [`  metrics: ${metrics.url}`];
  if (metrics?.state === 'failed') return [`  metrics: not served at ${metrics.url}: ${metrics.error}`];
  return [];
}
