import { UserError } from '../errors.js';

/** Where systemd looks for units of the administrator. */
export const UNIT_PATH = '/etc/systemd/system/homeproxy.service';

/** Words that systemd takes as they are (systemd.service(5), "Command lines"). */
const PLAIN = /^[^\s"'\\%$;]+$/;

/**
 * A unit that starts this very Node.js with this very program: systemd has a PATH of its own, which knows neither where they
 * came by nvm or into another prefix.
 * @param template the unit that ships with the product
 * @param node absolute path of the Node.js
 * @param program absolute path of the program that it runs
 * @throws {UserError} `UNIT_UNWRITABLE` when a path cannot stand in a unit
 */
export function serviceUnit(template: string, node: string, program: string): string {
  const odd = [node, program].find((path) => !PLAIN.test(path));
  if (odd !== undefined) {
    throw new UserError({
      code: 'UNIT_UNWRITABLE',
      message: `a systemd unit cannot start ${odd}: its path has blanks or signs that mean something else there`,
      remedy: 'install Node.js and homeproxy below plain paths',
      exitStatus: 7,
    });
  }
  return template.replace(/^ExecStart=.*$/m, () => `ExecStart=${node} ${program} up`);
}
