import { programInfo } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';

/** Somebody else's program is where ours would go. @param where the place, in words */
export function taken(code: 'XDP_TAKEN' | 'TC_TAKEN', where: string, programId: number, remedy: string): UserError {
  const { name } = programInfo(programId);
  const message = `${where} is taken by the program "${name}" (id ${programId}), which is not ours`;
  return new UserError({ code, message, remedy, exitStatus: 7 });
}
