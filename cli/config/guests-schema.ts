import { z } from 'zod';

const USER = /^([A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|\d{1,10}|\d{1,10}-\d{1,10})$/;
const MAX_UID = 0xfffffffe; // (uid_t)-1 is nobody's: it means "unchanged" to setresuid(2)

const user = z
  .union(
    [z.int().transform(String), z.string()],
    'must be the name or the number of a user, or a range such as 2000-2999',
  )
  .refine((text) => USER.test(text), 'must be the name or the number of a user, or a range such as 2000-2999')
  .refine(inOrder, `must be at most ${MAX_UID}, and the first of a range not above its last`);

const rule = z.strictObject({
  from: z
    .array(z.string())
    .min(1, 'must name at least one node')
    .max(1024)
    .optional()
    .describe('Nodes whose processes this rule is about: their homes. Default: every node.'),
  users: z
    .array(user)
    .min(1, 'must name at least one user')
    .max(1000)
    .optional()
    .describe(
      'Users of this machine, by name, number or range, that such a process may run as; every one that a task of it is or can become must be here. A task with capabilities counts as root too. Default: every user.',
    ),
});

/** The `guests` section of the configuration. */
export const guestsSection = z
  .strictObject({
    accept: z
      .array(rule)
      .max(1000)
      .default([{}])
      .describe(
        'Rules, of which one must fit a process that comes. []: none may come. Default: every process of every node.',
      ),
  })
  .prefault({})
  .describe('Which processes of other nodes this node takes. Its own ones may always come home.');

export type GuestRule = z.output<typeof rule>;

function inOrder(text: string): boolean {
  const numbers = /^(\d+)(?:-(\d+))?$/.exec(text);
  if (numbers === null) return true; // a name
  const [, first = '', last = first] = numbers;
  return Number(first) <= Number(last) && Number(last) <= MAX_UID;
}
