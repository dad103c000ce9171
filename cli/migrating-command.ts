import { join } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { ConfiguredCommand } from './base-command.js';
import { PACE_WORDS, pace } from './config/pace.js';
import { RATE_WORDS, rate } from './config/rate.js';
import { UserError } from './errors.js';
import { copiedInWords, memoryInWords } from './memory/carried.js';
import type { MigrationSummary } from './migration/records.js';
import { refuse } from './migration/refusals.js';
import { assessMethod, migrateMethod } from './node/control-methods.js';
import { callControl, streamControl } from './node/control-transport.js';
import type { Verdict } from './process/description.js';

/** The process argument of every command that names one. oclif's own integer throws what cannot be told from a bug. */
const pid = Args.custom<number>({
  parse: async (input) => {
    if (/^[1-9]\d{0,9}$/.test(input)) return Number(input);
    throw new UserError({
      code: 'USAGE',
      message: `a process id is a whole number, 1 or more, not "${input}"`,
      remedy: 'look it up with ps, or `homeproxy ps` if it is away',
      exitStatus: 2,
    });
  },
});
export const pidArgument = pid({ required: true, description: 'process id at home' });
export const optionalPid = pid({
  required: false,
  description: 'process id at home; without it, this machine is checked',
});

/** Whether the files of a process go with it. */
export const fileFlags = {
  files: Flags.option({
    description: 'shared: the same files are there (default); carry: they go with the process, into a root of its own',
    options: ['shared', 'carry'] as const,
  })(),
  carry: Flags.string({
    description: 'with --files carry: a file or folder that goes with it besides; may be given several times',
    multiple: true,
    helpValue: 'PATH',
    dependsOn: ['files'],
  }),
};

export interface FileFlags {
  readonly files?: 'shared' | 'carry' | undefined;
  readonly carry?: string[] | undefined;
}

/** What a daemon is told of them. */
export function filesAsked({ files, carry }: FileFlags): FileFlags {
  return { ...(files === undefined ? {} : { files }), ...(carry === undefined ? {} : { carry }) };
}

/** Of every command by which processes leave a host. */
export const resetClosingFlag = Flags.boolean({
  description:
    'when a process leaves a host: connections that it has closed do not keep it there; what their correspondents have not read is lost, and they are reset (CLOSING_CONNECTION)',
  default: false,
});

const bandwidth = Flags.custom<number>({
  parse: async (input) => {
    const parsed = rate().safeParse(input);
    if (parsed.success) return parsed.data;
    throw new UserError({ code: 'USAGE', message: `--bandwidth-limit ${RATE_WORDS}, not "${input}"`, exitStatus: 2 });
  },
});

const leastPace = Flags.custom<number>({
  parse: async (input) => {
    const parsed = pace().safeParse(input);
    if (parsed.success) return parsed.data;
    throw new UserError({ code: 'USAGE', message: `--throttle ${PACE_WORDS}, not "${input}"`, exitStatus: 2 });
  },
});

/** The flags of every command that moves a process. */
export const movingFlags = {
  'dry-run': Flags.boolean({ description: 'say every verdict of both ends; touch nothing', default: false }),
  'max-freeze': Flags.integer({
    description:
      'give up when the process would stand still for longer, before the freeze if that can be foreseen (default: timeouts.maxFreezeMs)',
    min: 1,
    helpValue: 'MS',
    exclusive: ['dry-run'],
  }),
  'freeze-budget': Flags.integer({
    description:
      'copy memory ahead until a freeze of so long is expected; nothing is rolled back because of it (default: timeouts.freezeBudgetMs)',
    min: 1,
    helpValue: 'MS',
    exclusive: ['dry-run'],
  }),
  'bandwidth-limit': bandwidth({
    description:
      'send memory no faster, in bytes per second: a number and K, M or G (default: transfer.bandwidthLimit); what CRIU carries in the freeze is not held back',
    helpValue: '50M',
    exclusive: ['dry-run'],
  }),
  throttle: leastPace({
    description:
      'a process that writes its memory faster than it can be copied, and would stand still for longer than --max-freeze, is slowed down while it is copied, to this part of its pace at the least; what is left then follows with --mode post-copy (default: never, and it stays)',
    helpValue: '25%',
    exclusive: ['dry-run'],
  }),
  mode: Flags.option({
    description:
      'copy-ahead: memory is copied while the process runs (default); stop-and-copy: all of it in the freeze, each byte once; post-copy: it runs at its destination before the last of its memory has come, and if the machine that it left is lost by then, so is the process; with --throttle it is slowed down first, so that less follows',
    options: ['copy-ahead', 'stop-and-copy', 'post-copy'] as const,
    exclusive: ['dry-run'],
  })(),
  'reset-closing': resetClosingFlag,
};

export interface MovingFlags extends FileFlags {
  readonly 'dry-run': boolean;
  readonly 'max-freeze': number | undefined;
  readonly 'freeze-budget'?: number | undefined;
  readonly 'bandwidth-limit'?: number | undefined;
  readonly throttle?: number | undefined;
  readonly mode?: 'copy-ahead' | 'stop-and-copy' | 'post-copy' | undefined;
  readonly 'reset-closing': boolean;
}

/** The answer to `--dry-run` when nothing stands in the way. */
export interface DryRun {
  readonly pid: number;
  readonly from: string;
  readonly outcome: 'possible';
  readonly verdicts: readonly Verdict[];
}

/** What `migrate` and `recall` share: ask the daemon, show the phases live, end with the summary. */
export abstract class MigratingCommand extends ConfiguredCommand {
  /** @param to name of a node; undefined: back home. */
  protected async move(pid: number, to: string | undefined, flags: MovingFlags): Promise<MigrationSummary | DryRun> {
    const config = await this.loadConfig();
    const socket = join(config.paths.run, 'control.sock');
    if (flags['dry-run']) return this.assess(socket, pid, to, flags);
    const { 'max-freeze': maxFreezeMs, 'freeze-budget': freezeBudgetMs } = flags;
    const { 'bandwidth-limit': bandwidthLimit, throttle } = flags;
    if (throttle !== undefined && flags.mode === 'stop-and-copy') {
      const message = '--throttle says nothing with --mode stop-and-copy: in the freeze there is nothing to slow down';
      throw new UserError({ code: 'USAGE', message, exitStatus: 2 });
    }
    let running: { readonly phase: string; readonly atMs: number } | undefined;
    const summary = await this.interruptible(async (signal) => {
      try {
        return await streamControl(
          socket,
          migrateMethod,
          {
            pid,
            ...(to === undefined ? {} : { to }),
            ...(maxFreezeMs === undefined ? {} : { maxFreezeMs }),
            ...(freezeBudgetMs === undefined ? {} : { freezeBudgetMs }),
            ...(bandwidthLimit === undefined ? {} : { bandwidthLimit }),
            ...(throttle === undefined ? {} : { throttle }),
            ...(flags.mode === 'stop-and-copy' ? { copyAhead: false } : {}),
            ...(flags.mode === 'post-copy' ? { postCopy: true } : {}),
            ...resetAsked(flags),
            ...filesAsked(flags),
          },
          (event) => {
            if (event.copied !== undefined) {
              this.progress.start(event.phase, copiedInWords(event.copied));
              return;
            }
            if (running !== undefined) this.progress.done(running.phase, milliseconds(event.atMs - running.atMs));
            this.progress.start(event.phase);
            running = event;
          },
          signal,
        );
      } catch (error) {
        if (running !== undefined) this.progress.failed(running.phase);
        throw error;
      }
    });
    if (running !== undefined) this.progress.done(running.phase, milliseconds(summary.phases[running.phase] ?? 0));
    this.render(summary);
    return summary as MigrationSummary;
  }

  /** Says every verdict on a move; nothing is touched. @throws {UserError} `REFUSED` when one is against it. */
  private async assess(socket: string, pid: number, to: string | undefined, flags: MovingFlags): Promise<DryRun> {
    const where = to === undefined ? {} : { to };
    const asked = { pid, ...where, ...filesAsked(flags), ...resetAsked(flags) };
    const { from, verdicts } = await callControl(socket, assessMethod, asked);
    for (const { outcome, subject, reason, code } of verdicts)
      this.log(`${outcome.padEnd(10)}${subject}: ${reason} (${code})`);
    refuse(pid, verdicts as readonly Verdict[]);
    this.log(`process ${pid} can be moved from ${from} to ${to ?? 'its home'}; nothing was touched`);
    return { pid, from, verdicts: verdicts as readonly Verdict[], outcome: 'possible' };
  }

  private render(summary: Omit<MigrationSummary, 'outcome'>): void {
    this.log(`process ${summary.pid} moved from ${summary.from} to ${summary.to}`);
    const { parkedPackets, replayedPackets, droppedPackets } = summary;
    const phases = Object.entries(summary.phases).map(([phase, ms]) => `${phase} ${ms.toFixed(1)}`);
    const facts = {
      frozen: milliseconds(summary.freezeMs),
      ...(summary.stallMs === undefined ? {} : { stalled: `${milliseconds(summary.stallMs)} at most` }),
      total: milliseconds(summary.totalMs),
      connections: String(summary.connections),
      packets: `${parkedPackets} parked, ${replayedPackets} replayed, ${droppedPackets} dropped`,
      moved: `${(summary.bytesMoved / (1 << 20)).toFixed(1)} MiB`,
      ...(summary.memory === undefined ? {} : { memory: memoryInWords(summary.memory) }),
      phases: `${phases.join(', ')} ms`,
    };
    for (const [fact, value] of Object.entries(facts)) this.log(`  ${fact.padEnd(12)}${value}`);
    for (const words of summary.notKept ?? []) this.log(`  ${'not kept'.padEnd(12)}${words}`);
  }
}

function resetAsked(flags: MovingFlags): { resetClosing?: boolean } {
  return flags['reset-closing'] ? { resetClosing: true } : {};
}

function milliseconds(ms: number): string {
  return `${ms.toFixed(1)} ms`;
}
