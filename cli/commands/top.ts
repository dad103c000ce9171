import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Flags } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { UserError } from '../errors.js';
import { callControl } from '../node/control-transport.js';
import { type TopReport, topMethod } from '../node/top-method.js';
import { ratesBetween, type TopSample } from '../top/rates.js';
import { viewOf } from '../top/view.js';

const PLAIN = { columns: 200, rows: 1000 };
const SCREEN = {
  enter: '\u001b[?1049h\u001b[?25l',
  leave: '\u001b[?25h\u001b[?1049l',
  home: '\u001b[H',
  rest: '\u001b[J',
};
/** The last is Ctrl-C, which is a key like any other while we read single keys. */
const QUIT_KEYS = ['q', 'Q', '\u0003'];
const LINE_END = '\u001b[K\r\n';
const SECONDS = /^(\d{1,2}|\d{0,2}\.\d{1,3})$/;

export default class Top extends ConfiguredCommand {
  static override summary = 'Show live what this node forwards: rates, parked packets, phases of running migrations.';
  static override description =
    `On a terminal until q or Ctrl-C; elsewhere, and with --json, one sample over one interval.

Exit status: 0; 7 no daemon.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --interval 0.2',
    '<%= config.bin %> <%= command.id %> --json --interval 5',
  ];
  static override flags = {
    interval: Flags.string({ description: 'seconds between two looks', default: '1', helpValue: 'SECONDS' }),
  };

  async run(): Promise<TopSample> {
    const { flags } = await this.parse(Top);
    const intervalMs = millisecondsOf(flags.interval);
    const config = await this.loadConfig();
    const socket = join(config.paths.run, 'control.sock');
    const look = (): Promise<TopReport> => callControl(socket, topMethod, {});
    const live = process.stdout.isTTY === true && !this.jsonEnabled();
    return live ? await this.watch(look, intervalMs) : await this.once(look, intervalMs);
  }

  private async once(look: () => Promise<TopReport>, intervalMs: number): Promise<TopSample> {
    const before = await look();
    await pause(intervalMs);
    const sample = ratesBetween(before, await look());
    for (const line of viewOf(sample, PLAIN)) this.log(line);
    return sample;
  }

  /** Draws on the terminal's second screen, so that the first is as it was when this ends. */
  private async watch(look: () => Promise<TopReport>, intervalMs: number): Promise<TopSample> {
    let before = await look(); // without a daemon nothing is drawn
    let sample = ratesBetween(undefined, before);
    const draw = (): void => {
      const { columns, rows } = process.stdout; // 0: the terminal does not know
      const lines = viewOf(sample, { columns: columns || 80, rows: (rows || 24) - 1 });
      process.stdout.write(`${SCREEN.home}${lines.join(LINE_END)}${LINE_END}${SCREEN.rest}`);
    };
    await this.interruptible(async (signal) => {
      const quit = new AbortController();
      const onKeys = (keys: Buffer): void => {
        if (QUIT_KEYS.some((key) => keys.includes(key))) quit.abort();
      };
      const keyboard = process.stdin.isTTY === true;
      if (keyboard) process.stdin.setRawMode(true).on('data', onKeys);
      const restore = (): void => {
        process.stdout.write(SCREEN.leave);
      };
      process.once('exit', restore); // a second Ctrl-C ends us at once
      process.stdout.on('resize', draw).write(SCREEN.enter);
      const ended = AbortSignal.any([signal, quit.signal]);
      try {
        for (;;) {
          draw();
          await pause(intervalMs, undefined, { signal: ended });
          const now = await look();
          sample = ratesBetween(before, now);
          before = now;
        }
      } catch (error) {
        if (!ended.aborted) throw error;
      } finally {
        process.stdout.off('resize', draw);
        process.off('exit', restore);
        restore();
        if (keyboard) process.stdin.setRawMode(false).off('data', onKeys).pause();
      }
    });
    return sample;
  }
}

function millisecondsOf(text: string): number {
  const ms = SECONDS.test(text) ? Number(text) * 1000 : Number.NaN;
  if (ms >= 100 && ms <= 60_000) return ms;
  throw new UserError({
    code: 'INTERVAL_INVALID',
    message: `--interval ${text}: must be a number of seconds between 0.1 and 60`,
    exitStatus: 2,
  });
}
