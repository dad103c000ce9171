import { once } from 'node:events';
import { join } from 'node:path';
import { Flags } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { jsonLine } from '../error-report.js';
import { REASON_NAMES } from '../forwarding/reasons.js';
import { streamControl } from '../node/control-transport.js';
import { type PacketEventRow, type TraceReport, traceMethod } from '../node/trace-method.js';
import { packetLine } from '../packet-line.js';
import { printable } from '../printable.js';

export default class Trace extends ConfiguredCommand {
  static override summary = 'Show packets as the datapath decides on them: what was dropped, and why.';
  static override description =
    `One line for each packet: time, hook and interface, verdict, reason, flow (of a tunnelled packet the inner one), bytes, and the
process that it belongs to. Verdicts: pass (to the kernel), drop, answer (dropped, and its sender told by ICMP), redirect (into a tunnel,
a pod or a park queue). The programs report at most 50 drops of each reason and 1000 other packets per second and processor; what they
leave out is counted, and said with the next event. When nobody traces, packets cost no more than the test of one flag.

With --json each event is one line, and the last line is {"events", "missed"}: how many were shown, and how many were not because the
reader was too slow.

Exit status: 0 ended by --count, Ctrl-C or its reader; 2 usage; 3 no packets of that process are ours; 7 no daemon.`;
  static override examples = [
    { description: 'What is dropped from now on', command: '<%= config.bin %> <%= command.id %> --drops' },
    {
      description: 'The last 20 drops, and no more',
      command: '<%= config.bin %> <%= command.id %> --drops --recent 20 --count 20',
    },
    {
      description: 'Every packet of process 4242 (one in a hundred: --sample 100)',
      command: '<%= config.bin %> <%= command.id %> --pid 4242',
    },
    {
      description: 'For a script',
      command: '<%= config.bin %> <%= command.id %> --reason guarded --reason too_big --json',
    },
  ];
  static override flags = {
    drops: Flags.boolean({ description: 'drops alone', default: false }),
    pid: Flags.integer({ description: 'packets of this process (as `ps` names it)', min: 1, helpValue: 'PID' }),
    binding: Flags.integer({
      description: 'packets of this binding (`ps --json` has its number)',
      min: 1,
      helpValue: 'ID',
      exclusive: ['pid'],
    }),
    reason: Flags.string({
      description: 'packets with this reason; may be given several times',
      multiple: true,
      multipleNonGreedy: true,
      options: REASON_NAMES,
      helpValue: 'REASON',
    }),
    sample: Flags.integer({
      description: 'one in N of the packets that are not dropped',
      min: 1,
      default: 1,
      helpValue: 'N',
    }),
    count: Flags.integer({ description: 'end after N packets', min: 1, helpValue: 'N' }),
    recent: Flags.integer({
      description: 'begin with the last N drops (the daemon keeps 512)',
      min: 0,
      default: 0,
      helpValue: 'N',
    }),
  };

  async run(): Promise<TraceReport> {
    const { flags } = await this.parse(Trace);
    const config = await this.loadConfig();
    const { drops, sample, reason, pid, binding, count, recent } = flags;
    const request = {
      drops,
      oneIn: sample,
      reasons: reason ?? [],
      recent,
      ...(pid === undefined ? {} : { pid }),
      ...(binding === undefined ? {} : { binding }),
      ...(count === undefined ? {} : { count }),
    };
    const report = await this.interruptible(async (signal) => {
      const closed = new AbortController();
      process.stdout.once('error', () => closed.abort()); // `| head`: whoever read us has enough
      const either = AbortSignal.any([signal, closed.signal]);
      const socket = join(config.paths.run, 'control.sock');
      return await streamControl(socket, traceMethod, request, (event) => this.show(event, closed.signal), either);
    });
    if (report.missed > 0 && !this.jsonEnabled())
      process.stderr.write(`${report.missed} packets were not shown: they came faster than they were read\n`);
    return report;
  }

  private async show(event: PacketEventRow, closed: AbortSignal): Promise<void> {
    if (closed.aborted) return;
    const text = this.jsonEnabled() ? jsonLine(event) : printable(packetLine(event));
    if (!process.stdout.write(`${text}\n`))
      await once(process.stdout, 'drain', { signal: closed }).catch(() => undefined);
  }
}
