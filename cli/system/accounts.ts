import { UserError } from '../errors.js';
import { run } from './command.js';

/** The id of a group, by its name or number. @throws {UserError} `GROUP_UNKNOWN` */
export async function gidOf(group: string): Promise<number> {
  const gid = await idOf('group', group);
  if (gid !== undefined) return gid;
  throw new UserError({
    code: 'GROUP_UNKNOWN',
    message: `there is no group "${group}" on this machine (control.group)`,
    remedy: `groupadd --system ${group}`,
    exitStatus: 2,
  });
}

/** The id of a user, by its name or number. @throws {UserError} `USER_UNKNOWN` */
export async function uidOf(user: string): Promise<number> {
  const uid = await idOf('passwd', user);
  if (uid !== undefined) return uid;
  throw new UserError({
    code: 'USER_UNKNOWN',
    message: `there is no user "${user}" on this machine (guests.accept)`,
    remedy: 'name a user that `getent passwd` lists, or a number',
    exitStatus: 2,
  });
}

/** Asks getent(1): it knows those of a directory service too. Both databases have the id in their third field. */
async function idOf(database: 'group' | 'passwd', name: string): Promise<number | undefined> {
  if (/^\d+$/.test(name)) return Number(name);
  const entry = await run('getent', [database, name]).catch(() => undefined);
  const id = entry?.stdout.split(':')[2];
  return id !== undefined && /^\d+$/.test(id) ? Number(id) : undefined;
}
