import { z } from 'zod';

/** Small files that most programs look at late: names of hosts and users, the time zone. They do no harm where nobody reads them. */
const DEFAULT_PATHS = [
  '/etc/group',
  '/etc/hosts',
  '/etc/localtime',
  '/etc/nsswitch.conf',
  '/etc/passwd',
  '/etc/protocols',
  '/etc/resolv.conf',
  '/etc/services',
];

/** The `carry` section of the configuration. */
export const carrySection = z
  .strictObject({
    paths: z
      .array(
        z
          .string()
          .regex(/^\/[^\0]*$/, 'must be an absolute path')
          .max(4095),
      )
      .max(1000)
      .default(DEFAULT_PATHS)
      .describe(
        'Files and folders, with what is in them, that travel with every process besides its own; those that are not there are passed over. ' +
          `Default: ${DEFAULT_PATHS.join(', ')}.`,
      ),
    maxBytes: z
      .int('must be a whole number of bytes')
      .min(1, 'must be at least 1 (bytes)')
      .default(2 ** 31)
      .describe(
        'Most that may travel with one process, and that is taken from another node. Bytes, default 2147483648.',
      ),
  })
  .prefault({})
  .describe('Processes that move with `--files carry`: their files go with them, into a root of their own.');
