import { accessSync, constants, existsSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Flags, ux } from '@oclif/core';
import { BaseCommand } from '../base-command.js';
import { runDemo } from '../demo/demo.js';
import type { DemoOutcome, DemoResult } from '../demo/result.js';
import { svgTimeline } from '../demo/svg.js';
import { migrationTable, phaseTable } from '../demo/table.js';
import { terminalTimeline } from '../demo/timeline.js';
import { ExternalError, UserError } from '../errors.js';

const DEFAULT_SVG = 'demo-timeline.svg';
const WIDTH_WITHOUT_TERMINAL = 100;
const WIDEST = 160;

export default class Demo extends BaseCommand {
  static override summary = 'Move a Redis under load from host to host and back, and show what its client saw.';
  static override description =
    `Builds a lab of its own, starts a real Redis on its home node, puts load on it from the client node, and moves it
home -> host1 -> host2 -> home meanwhile. Each of the client's connections checks every reply in sequence. The lab is taken
down at the end, after a failure and after Ctrl-C. Needs root.

Exit status: 0 nothing was lost; 5 a reply was lost, repeated, out of order or wrong, a connection was reset or could not be
made, or Redis is not an ordinary process of home again (DEMO_FAILED), or a program failed; 6 a move was rolled back; 7 not
root, or the machine lacks something; 130 interrupted; 2, 3, 4 as for migrate.`;

  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    { description: 'The result in one line', command: '<%= config.bin %> <%= command.id %> --json' },
    {
      description: 'Look at the lab afterwards',
      command:
        '<%= config.bin %> <%= command.id %> --keep && <%= config.bin %> lab exec home --lab demo -- homeproxy ps',
    },
  ];

  static override flags = {
    svg: Flags.string({ description: 'where the picture goes', default: DEFAULT_SVG, helpValue: 'FILE' }),
    connections: Flags.integer({
      description: 'connections that check every reply',
      default: 50,
      min: 1,
      max: 1000,
      helpValue: 'N',
    }),
    rest: Flags.integer({
      description: 'milliseconds of load before, between and after the moves',
      default: 2000,
      min: 100,
      helpValue: 'MS',
    }),
    keep: Flags.boolean({ description: 'leave the lab up' }),
    lab: Flags.string({ description: 'name of the lab', default: 'demo', helpValue: 'NAME' }),
  };

  async run(): Promise<DemoResult & { readonly svg: string }> {
    const { flags } = await this.parse(Demo);
    const svg = resolve(flags.svg);
    requireWritable(svg);
    const { connections, keep, lab } = flags;
    const outcome = await this.interruptible((signal) =>
      runDemo({ lab, connections, restMs: flags.rest, keep, signal, steps: this.progress }),
    );
    writeFileSync(
      svg,
      svgTimeline(outcome.picture, { title: title(outcome.result), subtitle: subtitle(outcome.result) }),
    );
    this.render(outcome, flags.svg);
    const result = { ...outcome.result, svg };
    if (result.violations.length > 0) this.fail(result);
    if (keep) this.log(`The lab is still up: homeproxy lab exec home --lab ${lab} -- homeproxy status`);
    return result;
  }

  private render({ result, picture }: DemoOutcome, svg: string): void {
    const { migrations, noise } = result;
    const paint = {
      head: (text: string) => ux.colorize('bold', text),
      good: (text: string) => ux.colorize('green', text),
      bad: (text: string) => ux.colorize('red', text),
      frozen: (text: string) => ux.colorize('magenta', text),
      calm: (text: string) => ux.colorize('cyan', text),
      faint: (text: string) => ux.colorize('dim', text),
    };
    const columns = process.stdout.isTTY ? Math.min(process.stdout.columns, WIDEST) : WIDTH_WITHOUT_TERMINAL;
    this.log(`\n${paint.head(title(result))}\n`);
    this.log(migrationTable(migrations, paint));
    this.log(phaseTable(migrations, paint));
    this.log(`\n${paint.head("The client's view")}: longest latency over time\n`);
    this.log(terminalTimeline(picture, columns, paint).join('\n'));
    this.log(`\n  ${svg}: the same picture for a browser`);
    this.log(`  ${subtitle(result)}, median latency ${result.medianMs} ms`);
    this.log(`  redis-benchmark beside it: ${noise.bursts} runs with new connections, ${noise.failures} failed`);
    if (result.violations.length === 0) {
      this.log(
        `  ${paint.good('✔')} Redis is an ordinary process of home again, pid ${result.redis.pid}; nobody noticed more than a pause.`,
      );
    }
  }

  /** Under `--json` the figures are printed with the error: they say what broke. */
  private fail(result: DemoResult): never {
    const error = new ExternalError({
      code: 'DEMO_FAILED',
      message: 'the demo broke its promises',
      command: 'homeproxy demo',
      log: result.violations,
      remedy: "run it again with --keep, and read the daemons' logs in the lab",
    });
    if (!this.jsonEnabled()) throw error;
    this.logJson({ ...result, error: error.toDocument() });
    this.exit(error.exitStatus);
  }
}

function title({ connections }: DemoResult): string {
  return `A Redis moves home → host1 → host2 → home while ${connections} connections use it`;
}

function subtitle({ replies, lostReplies, repeatedReplies, outOfOrderReplies, resets }: DemoResult): string {
  const faults = `${lostReplies} lost, ${repeatedReplies} repeated, ${outOfOrderReplies} out of order`;
  return `${replies.toLocaleString('en')} replies checked in sequence: ${faults}; ${resets} connections reset`;
}

/** Early, because the demo takes a while. */
function requireWritable(path: string): void {
  try {
    accessSync(existsSync(path) ? path : dirname(path), constants.W_OK);
  } catch (cause) {
    throw new UserError({
      code: 'SVG_UNWRITABLE',
      message: `cannot write ${path}: ${(cause as Error).message}`,
      remedy: 'name another file with --svg',
      exitStatus: 2,
      cause,
    });
  }
}
