import { stat } from 'node:fs/promises';
import type { BaseLogger } from 'pino';
import { HomeproxyError } from '../errors.js';
import { type CredentialFiles, type Credentials, loadCredentials } from './credentials.js';

/** Files that change say nothing to everybody (network file systems, bind mounts): we look. */
const LOOK_MS = 5000;

type CredentialsLogger = Pick<BaseLogger, 'info' | 'error'>;

/**
 * A node's credentials, as its files have them now. New ones are taken up while the daemon runs: certificates are renewed and
 * revoked without a restart. Files that do not fit, such as a new key beside the certificate before it, change nothing.
 */
export class LiveCredentials {
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<boolean> | undefined;
  private readonly listeners: ((credentials: Credentials) => void)[] = [];

  private constructor(
    private readonly files: CredentialFiles,
    private readonly node: string,
    private readonly logger: CredentialsLogger,
    private seen: string,
    private present: Credentials,
  ) {}

  /** @throws {UserError} as `loadCredentials` */
  static async load(files: CredentialFiles, node: string, logger: CredentialsLogger): Promise<LiveCredentials> {
    const seen = await identity(files);
    return new LiveCredentials(files, node, logger, seen, await loadCredentials(files, node));
  }

  get current(): Credentials {
    return this.present;
  }

  /** Is called with all later credentials. */
  onRenewal(listener: (credentials: Credentials) => void): void {
    this.listeners.push(listener);
  }

  /** Looks at the files from now on, until {@link close}. */
  watch(everyMs = LOOK_MS): void {
    this.timer = setInterval(() => {
      this.refresh().catch((error: unknown) => this.logger.error({ err: error }, 'renewing the credentials failed'));
    }, everyMs);
    this.timer.unref();
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** Takes up what has changed since the last look. @returns whether there are new credentials */
  async refresh(): Promise<boolean> {
    this.looking ??= this.look().finally(() => {
      this.looking = undefined;
    });
    return await this.looking;
  }

  private async look(): Promise<boolean> {
    const now = await identity(this.files);
    if (now === this.seen) return false;
    this.seen = now;
    try {
      this.present = await loadCredentials(this.files, this.node);
    } catch (error) {
      if (!(error instanceof HomeproxyError)) throw error;
      const { code, message: reason, remedy } = error;
      this.logger.error({ code, reason, remedy }, 'the new credentials do not fit: those before stay in use');
      return false;
    }
    const { expires, revoked } = this.present;
    this.logger.info({ expires: expires.toISOString(), revoked: revoked.size }, 'new credentials');
    for (const listener of this.listeners) listener(this.present);
    return true;
  }
}

async function identity(files: CredentialFiles): Promise<string> {
  const paths = [files.ca, files.certificate, files.key, files.revocations];
  const parts = paths.map(async (path) => {
    if (path === undefined) return '';
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
      return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'unreadable';
    }
  });
  return (await Promise.all(parts)).join('\n');
}
