import type { GuestRule } from '../config/guests-schema.js';
import { UserError } from '../errors.js';
import type { ProcessDescription, Verdict } from '../process/description.js';
import { refused } from '../process/verdicts.js';
import { uidOf } from '../system/accounts.js';
import { readUsers } from '../system/procfs.js';

interface Rule {
  /** undefined: every node. */
  readonly from: ReadonlySet<string> | undefined;
  /** First and last user id of each range; undefined: every user. */
  readonly users: readonly (readonly [number, number])[] | undefined;
}

/** `guests.accept` of the configuration: which processes of other nodes may live here. */
export class Guests {
  private constructor(
    private readonly node: string,
    private readonly rules: readonly Rule[],
  ) {}

  /** @throws {UserError} `USER_UNKNOWN` for a name that this machine does not have. */
  static async resolve(node: string, rules: readonly GuestRule[]): Promise<Guests> {
    const resolved = rules.map(async ({ from, users }) => ({
      from: from && new Set(from),
      users: users && (await Promise.all(users.map(rangeOf))),
    }));
    return new Guests(node, await Promise.all(resolved));
  }

  /** Before anything is made: by what the home says of it. */
  verdicts(home: string, { homePid, users }: ProcessDescription): Verdict[] {
    if (this.mayCome(home, users)) return [];
    return [
      refused(
        'GUEST_REFUSED',
        `process ${homePid}`,
        this.reason(home, users),
        `choose another host, or extend \`guests.accept\` in the configuration of ${this.node}`,
      ),
    ];
  }

  /**
   * What a home says of its process need not be true: asks the kernel, as soon as the tasks are there and before they run.
   * @throws {UserError} `GUEST_REFUSED`
   */
  require(home: string, pids: readonly number[]): void {
    const users = [...new Set(pids.flatMap(readUsers))];
    if (this.mayCome(home, users)) return;
    throw new UserError({
      code: 'GUEST_REFUSED',
      message: this.reason(home, users),
      remedy: `look at what ${home} sends: it had said something else of this process`,
      exitStatus: 4,
    });
  }

  private mayCome(home: string, users: readonly number[]): boolean {
    return this.rules.some(
      (rule) =>
        (rule.from === undefined || rule.from.has(home)) &&
        (rule.users === undefined || (users.length > 0 && users.every((user) => isAmong(user, rule.users ?? [])))),
    );
  }

  private reason(home: string, users: readonly number[]): string {
    const whose = users.length === 0 ? 'unknown users' : `user ${[...users].sort((a, b) => a - b).join(', ')}`;
    return `${this.node} takes no processes of ${whose} from ${home}`;
  }
}

function isAmong(user: number, ranges: readonly (readonly [number, number])[]): boolean {
  return ranges.some(([first, last]) => user >= first && user <= last);
}

async function rangeOf(text: string): Promise<readonly [number, number]> {
  const [, first, last] = /^(\d+)-(\d+)$/.exec(text) ?? [];
  if (first !== undefined && last !== undefined) return [Number(first), Number(last)];
  const uid = await uidOf(text);
  return [uid, uid];
}
