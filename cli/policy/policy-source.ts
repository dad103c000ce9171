import { stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import { UserError } from '../errors.js';
import { NO_POLICIES, type PolicySet } from './model.js';
import { type KnownNode, loadPolicies } from './policy-file.js';

/** The policies of a file that may change: the last good version of it. */
export class PolicySource {
  private present: PolicySet = NO_POLICIES;
  /** What the file was like when it was read last, good or bad. */
  private seen = '';
  private fault: string | undefined;

  /** @param nodes those of the configuration */
  constructor(
    readonly file: string,
    private readonly nodes: readonly KnownNode[],
    private readonly logger: Logger,
  ) {}

  get policies(): PolicySet {
    return this.present;
  }

  /** What is wrong with the file as it is now, one line per problem; undefined: nothing. */
  get problem(): string | undefined {
    return this.fault;
  }

  /**
   * Reads the file when it is another one than the last time, or has changed. A bad version is logged once, with positions, and
   * changes nothing; nor does a file that is gone (editors replace files): no policies are `policies: []`.
   * @returns whether there are new policies
   */
  async refresh(): Promise<boolean> {
    const now = await this.identity();
    if (now === this.seen) return false;
    this.seen = now;
    try {
      const loaded = await loadPolicies(this.file, this.nodes);
      this.present = loaded;
      this.fault = undefined;
      this.logger.info({ file: this.file, policies: loaded.policies.map(({ name }) => name) }, 'policies loaded');
      return true;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      this.fault = error.message;
      const kept = this.present.policies.map(({ name }) => name);
      this.logger.error(
        { file: this.file, code: error.code, problems: error.message.split('\n'), kept },
        'the policy file has faults: the policies stay as they were',
      );
      return false;
    }
  }

  private async identity(): Promise<string> {
    try {
      const { ino, size, mtimeNs, ctimeNs } = await stat(this.file, { bigint: true });
      return [ino, size, mtimeNs, ctimeNs].join(' ');
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'unreadable';
    }
  }
}
