import { UserError } from '../errors.js';
import { run } from './command.js';

/** The id of a group, by its name or number (getent(1): also those of a directory service). @throws {UserError} `GROUP_UNKNOWN` */
export async function gidOf(group: string): Promise<number> {
  if (/^\d+$/.test(group)) return Number(group);
  const entry = await run('getent', ['group', group]).catch(() => undefined);
  const gid = entry?.stdout.split(':')[2];
  if (gid !== undefined && /^\d+$/.test(gid)) return Number(gid);
  throw new UserError({
    code: 'GROUP_UNKNOWN',
    message: `there is no group "${group}" on this machine (control.group)`,
    remedy: `groupadd --system ${group}`,
    exitStatus: 2,
  });
}
