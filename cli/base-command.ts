import { Command, Flags } from '@oclif/core';
import { type Config, loadConfig } from './config/load.js';
import { debugWanted, describeThrown, errorJson, errorText, jsonLine, requestedExit } from './error-report.js';
import { UserError } from './errors.js';
import { printableStyled } from './printable.js';
import { Progress } from './progress.js';

export const DEFAULT_CONFIG_PATH = '/etc/homeproxy/homeproxy.yaml';

/**
 * Every command extends it. `run()` returns the result, an object, which `--json` prints in one line; without `--json` the
 * command renders it with `this.log`. Errors are thrown and rendered here, in one place, with their documented exit status.
 */
export abstract class BaseCommand extends Command {
  static override enableJsonFlag = true;

  #progress: Progress | undefined;

  /** Live progress on stderr; silent under `--json`. */
  protected get progress(): Progress {
    this.#progress ??= new Progress(process.stderr, this.jsonEnabled());
    return this.#progress;
  }

  /**
   * Runs `work` with a signal that the first Ctrl-C (or SIGTERM, SIGHUP) aborts; the second ends the process with 130 at
   * once. `work` decides what an abort means: a migration asks for its rollback and reports that.
   */
  protected async interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    const onSignal = (): void => {
      if (controller.signal.aborted) process.exit(130);
      this.progress.clear();
      controller.abort(new UserError({ code: 'INTERRUPTED', message: 'interrupted', exitStatus: 130 }));
    };
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
    for (const signal of signals) process.on(signal, onSignal);
    try {
      return await work(controller.signal);
    } finally {
      for (const signal of signals) process.off(signal, onSignal);
    }
  }

  override log(message = ''): void {
    super.log(printableStyled(message));
  }

  override logJson(json: unknown): void {
    process.stdout.write(`${jsonLine(json)}\n`);
  }

  /** oclif's own handler exits 1 under `--json` and leaks its parse errors: ours decides text and status for both forms. */
  override async catch(thrown: Error): Promise<void> {
    const requested = requestedExit(thrown);
    if (requested !== undefined) throw thrown;
    const error = describeThrown(thrown, this.id);
    this.#progress?.clear();
    if (this.jsonEnabled()) this.logJson(errorJson(error));
    else process.stderr.write(`${errorText(error, debugWanted())}\n`);
    this.exit(error.exitStatus); // ends the process even when a socket is still open
  }
}

/** A command that needs this node's configuration: adds `--config` and {@link ConfiguredCommand.loadConfig}. */
export abstract class ConfiguredCommand extends BaseCommand {
  static override baseFlags = {
    config: Flags.string({
      description: 'configuration file',
      env: 'HOMEPROXY_CONFIG',
      default: DEFAULT_CONFIG_PATH,
      helpValue: 'FILE',
      helpGroup: 'GLOBAL',
    }),
  };

  /** @throws {UserError} `CONFIG_MISSING` or `CONFIG_INVALID`, exit 2. */
  protected async loadConfig(): Promise<Config> {
    const { flags } = await this.parse(this.ctor as typeof ConfiguredCommand);
    return loadConfig(flags.config);
  }
}
