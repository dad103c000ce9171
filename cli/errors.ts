/**
 * The three kinds of failure, and nothing else (see `docs` of each class). Services throw these; only commands render
 * them. `code` is stable and documented, `exitStatus` is what the command exits with.
 *
 * | exit | meaning |
 * |---|---|
 * | 0 | done |
 * | 1 | our bug |
 * | 2 | wrong usage: arguments, flags, configuration |
 * | 3 | the thing asked for does not exist or cannot be moved |
 * | 4 | another node could not be reached or did not trust us |
 * | 5 | another program (CRIU, ip, ...) failed |
 * | 6 | the migration was rolled back: the process runs where it was |
 * | 7 | this machine lacks something: privilege, kernel feature, package, daemon |
 * | 130 | interrupted |
 */
export type ErrorKind = 'user' | 'external' | 'bug';

export interface ErrorDocument {
  readonly code: string;
  readonly kind: ErrorKind;
  readonly message: string;
  readonly remedy?: string;
  readonly exitStatus: number;
  readonly command?: string;
  readonly log?: readonly string[];
}

export interface ErrorOptionsOf {
  readonly code: string;
  readonly message: string;
  readonly remedy?: string;
  readonly exitStatus?: number;
  readonly cause?: unknown;
}

export abstract class HomeproxyError extends Error {
  abstract readonly kind: ErrorKind;
  readonly code: string;
  readonly remedy: string | undefined;
  readonly exitStatus: number;

  protected constructor(options: ErrorOptionsOf, defaultExit: number) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = options.code;
    this.remedy = options.remedy;
    this.exitStatus = options.exitStatus ?? defaultExit;
  }

  /** The JSON form: what `--json` prints and what travels between CLI, daemon and nodes. */
  toDocument(): ErrorDocument {
    return {
      code: this.code,
      kind: this.kind,
      message: this.message,
      exitStatus: this.exitStatus,
      ...(this.remedy === undefined ? {} : { remedy: this.remedy }),
    };
  }
}

/** The user must do something; `remedy` says what. */
export class UserError extends HomeproxyError {
  readonly kind = 'user';
  constructor(options: ErrorOptionsOf) {
    super(options, 3);
  }
}

/** Another program failed: its command line and the telling lines of its log. */
export class ExternalError extends HomeproxyError {
  readonly kind = 'external';
  readonly command: string;
  readonly log: readonly string[];
  constructor(options: ErrorOptionsOf & { command: string; log?: readonly string[] }) {
    super(options, 5);
    this.command = options.command;
    this.log = options.log ?? [];
  }
  override toDocument(): ErrorDocument {
    return { ...super.toDocument(), command: this.command, log: this.log };
  }
}

/** Something that cannot happen did. */
export class BugError extends HomeproxyError {
  readonly kind = 'bug';
  constructor(message: string, cause?: unknown) {
    super(
      {
        code: 'BUG',
        message,
        cause,
        remedy: "please report this with the output of `homeproxy status --json` and the daemon's log",
      },
      1,
    );
  }
}

/** Rebuilds an error that another process described, so that its kind, code and exit status survive the journey. */
export function fromDocument(document: ErrorDocument): HomeproxyError {
  switch (document.kind) {
    case 'user':
      return new UserError(document);
    case 'external':
      return new ExternalError({ ...document, command: document.command ?? '' });
    case 'bug':
      return new BugError(document.message);
  }
}

/** Any thrown value as one of the three kinds. */
export function asHomeproxyError(thrown: unknown): HomeproxyError {
  if (thrown instanceof HomeproxyError) return thrown;
  if (thrown instanceof Error) return new BugError(thrown.message, thrown);
  return new BugError(String(thrown));
}
