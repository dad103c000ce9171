/* What may stand in a policy file. Each kind of condition is a key of its own, so that a fault is found where it stands. */
import { z } from 'zod';
import { byLabel } from '../config/labels.js';
import { pace } from '../config/pace.js';
import { rate } from '../config/rate.js';
import { isProcessorFeature } from '../system/processor.js';
import { isSelective } from './glob.js';
import { amount, byteCount, duration } from './quantity.js';

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const CLOCK = /^([01]\d|2[0-3]):[0-5]\d$/;
export const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const;

const pattern = z
  .string()
  .min(1, 'must not be empty')
  .max(256, 'must be at most 256 characters')
  .refine(isSelective, 'must hold more than wildcards');

/** A label must be one of these; `*` alone asks for any value. */
const labelPatterns = byLabel(
  z
    .union([z.string().max(256), z.array(z.string().max(256)).min(1).max(64)], 'must be text, or a list of texts')
    .transform((value) => (typeof value === 'string' ? [value] : value)),
);

function limit(description: string) {
  return z.number('must be a number').optional().describe(description);
}

const selector = z
  .strictObject({
    name: pattern.optional().describe("The process's name (comm, at most 15 characters): `redis-server`."),
    commandLine: pattern.optional().describe('Its whole command line, arguments joined by spaces: `*--port 6379*`.'),
    user: z.string().min(1).max(64).optional().describe('Its user, by name or number.'),
    cgroup: pattern.optional().describe('Its cgroup (v2), as /proc/PID/cgroup has it: `/system.slice/redis*`.'),
    unit: pattern.optional().describe('The systemd unit that it belongs to: `redis@*.service`.'),
    port: z
      .int('must be a whole number')
      .min(1, 'must be between 1 and 65535')
      .max(65_535, 'must be between 1 and 65535')
      .optional()
      .describe('A port on which it listens, or has a UDP socket.'),
    labels: labelPatterns
      .optional()
      .describe(
        'Its labels: `{tier: cache}`, `{tier: [web, app-*]}`, `{tier: "*"}`. They come from the variable HOMEPROXY_LABELS ' +
          '(`tier=cache,app=shop`) of its environment and the attribute trusted.homeproxy.labels of its cgroup. Needs `user`, `unit` or `cgroup` beside it: anybody can label what he starts.',
      ),
  })
  .describe('A process must be all that is said here. `*` stands for any characters, `?` for one.');

const condition = z
  .strictObject({
    get all(): z.ZodOptional<z.ZodArray<typeof condition>> {
      return z.array(condition).optional().describe('Every one of these holds.');
    },
    get any(): z.ZodOptional<z.ZodArray<typeof condition>> {
      return z.array(condition).optional().describe('At least one of these holds.');
    },
    get not(): z.ZodOptional<typeof condition> {
      return condition.optional().describe('This does not hold.');
    },
    pressure: z
      .strictObject({
        resource: z.enum(['cpu', 'memory', 'io'], 'must be cpu, memory or io').describe('What tasks wait for.'),
        share: z
          .enum(['some', 'full'], 'must be some or full')
          .default('some')
          .describe('Some task waits, or all of them do. Default some.'),
        average: z
          .enum(['avg10', 'avg60'], 'must be avg10 or avg60')
          .default('avg10')
          .describe('Over the last 10 or 60 seconds. Default avg10.'),
        above: limit('It is greater than this. Percent of the time.'),
        below: limit('It is less than this. Percent of the time.'),
      })
      .optional()
      .describe('Pressure stall information of the node (/proc/pressure).'),
    loadPerCpu: z
      .strictObject({
        above: limit('It is greater than this.'),
        below: limit('It is less than this.'),
      })
      .optional()
      .describe('Load average of the last minute, divided by the number of CPUs.'),
    availableMemory: z
      .strictObject({
        above: amount().optional().describe('There is more than this.'),
        below: amount().optional().describe('There is less than this.'),
      })
      .optional()
      .describe('MemAvailable of the node, in bytes or percent of its memory.'),
    diskFree: z
      .strictObject({
        path: z
          .string()
          .regex(/^\/[^\0]*$/, 'must be an absolute path')
          .max(4096)
          .describe('Any path in the file system.'),
        above: amount().optional().describe('There is more than this.'),
        below: amount().optional().describe('There is less than this.'),
      })
      .optional()
      .describe('Free space of a file system of the node, for users other than root, in bytes or percent of its size.'),
    time: z
      .strictObject({
        days: z
          .array(z.enum(DAYS, 'must be one of mon, tue, wed, thu, fri, sat, sun'))
          .min(1, 'must name a day')
          .default([...DAYS])
          .describe('Days on which the window begins. Default: every day.'),
        from: z.string().regex(CLOCK, 'must be a time of day such as 06:30').describe('When it begins.'),
        to: z
          .string()
          .regex(CLOCK, 'must be a time of day such as 06:30')
          .describe('When it ends; before `from`: on the next day.'),
        zone: z
          .string()
          .refine(isTimeZone, 'must be a time zone such as Europe/Berlin or UTC')
          .default('UTC')
          .describe('Time zone. Default UTC.'),
      })
      .optional()
      .describe('It is within a window of the week.'),
    draining: z
      .boolean('must be true or false')
      .optional()
      .describe('The node is being drained (`homeproxy drain`), or is not.'),
    owner: z
      .strictObject({
        is: z
          .enum(['present', 'absent'], 'must be present or absent')
          .describe('present: somebody has typed at a terminal of the node within that time. absent: nobody has.'),
        within: duration()
          .refine((ms) => ms >= 10_000, 'must be at least 10s')
          .prefault('5m')
          .describe('The time. Default 5m.'),
      })
      .optional()
      .describe('Whether somebody is at the node (a console, ssh): its owner, who wants it for himself.'),
    host: z
      .strictObject({
        name: z.string().regex(NAME, 'must be the name of a node').describe('A node of the configuration.'),
        is: z.enum(['reachable', 'unreachable'], 'must be reachable or unreachable').describe('What it must be.'),
      })
      .optional()
      .describe('Whether the daemon of a node answers this one.'),
    promql: z
      .strictObject({
        url: z
          .string()
          .refine(isPrometheusUrl, 'must be an http:// or https:// address without user, query and fragment')
          .describe('Address of a Prometheus server: `http://prometheus:9090`.'),
        query: z.string().min(1, 'must not be empty').max(4096).describe('A PromQL expression.'),
        above: limit('A value of its result is greater than this.'),
        below: limit('A value of its result is less than this.'),
      })
      .optional()
      .describe('What a query of Prometheus gives now.'),
    for: duration().optional().describe('It holds without interruption for so long. Default: at once.'),
  })
  .meta({ id: 'condition' });

const policy = z.strictObject({
  name: z
    .string()
    .regex(NAME, 'must be a name of small letters, digits and inner hyphens, at most 63 characters')
    .describe('Name of the policy, in logs and in `homeproxy policy explain`.'),
  processes: z
    .array(selector)
    .min(1, 'must choose processes')
    .max(32)
    .describe('Processes of this home node that it is about: those that any of these chooses.'),
  from: z
    .union(
      [z.enum(['home', 'hosts', 'anywhere']), z.array(pattern).min(1).max(64)],
      'must be home, hosts, anywhere or a list of names of nodes',
    )
    .default('home')
    .describe(
      'home: it moves processes away from home, and `when` reads this node. hosts: on or back from where they are guests, and ' +
        '`when` reads that node; a list (`[rack2-*]`): from these nodes. anywhere: from home, and from a host by what `when` ' +
        'measures there. Default home.',
    ),
  when: condition.describe('When they move.'),
  until: condition
    .optional()
    .describe('When those that this policy has moved come home again; it reads the home node. Default: never.'),
  where: z
    .strictObject({
      home: z
        .enum(['never', 'first', 'only'], 'must be never, first or only')
        .default('never')
        .describe(
          'Whether guests go home: never (that is for `until`), first (another node if home is no place for it), only. Default never.',
        ),
      among: z.array(pattern).max(64).optional().describe('Names of nodes (`rack2-*`). Default: every node.'),
      not: z.array(pattern).max(64).default([]).describe('And not these. Default: none.'),
      labels: labelPatterns
        .optional()
        .describe(
          'Labels that a node must have (`nodes[].labels` of the configuration): `{disk: ssd, rack: [r1, r2]}`.',
        ),
      notLabels: labelPatterns.optional().describe('A node that has one of these labels is none of them.'),
      cpu: z
        .array(
          z
            .string()
            .max(64)
            .refine(
              isProcessorFeature,
              'must be an instruction set as /proc/cpuinfo names it, for example avx2 or sve',
            ),
        )
        .max(64)
        .default([])
        .describe(
          'Instruction sets that it must have, besides those of this node, which it always must. Default: none.',
        ),
      minAvailableMemory: byteCount()
        .optional()
        .describe("What must be available there, besides the process's own size. Default: nothing."),
      maxLoadPerCpu: z
        .number('must be a number')
        .positive('must be more than 0')
        .optional()
        .describe('The load there must not be greater. Default: any.'),
      apartFrom: z
        .array(pattern)
        .max(32)
        .default([])
        .describe('No process of this home with such a name may be there already. Default: none.'),
      prefer: z
        .enum(
          ['most-free-memory', 'least-load', 'near-correspondents'],
          'must be most-free-memory, least-load or near-correspondents',
        )
        .default('most-free-memory')
        .describe(
          'Which of the nodes that are left. near-correspondents: the one in whose networks (its own, and `nodes[].near` of the ' +
            'configuration) most of those are that it is connected with; of equals the one with the most free memory. ' +
            'Default most-free-memory.',
        ),
    })
    .prefault({})
    .describe('Where to. Nodes that do not answer or are being drained are never chosen.'),
  how: z
    .strictObject({
      maxFreeze: duration()
        .refine((ms) => ms >= 1, 'must be at least 1ms')
        .optional()
        .describe('Roll back when the process would stand still for longer. Default: timeouts.maxFreezeMs.'),
      bandwidthLimit: rate()
        .optional()
        .describe('Memory is sent no faster: bytes per second, for example 50M. Default: transfer.bandwidthLimit.'),
      throttle: pace()
        .optional()
        .describe(
          'A process that writes its memory faster than it can be copied, and would stand still for longer than `maxFreeze`, is ' +
            'slowed down while it is copied, to this part of its pace at the least: from 10% to 99%. With `mode: post-copy` what is ' +
            'left then follows. Default: never, and it stays.',
        ),
      mode: z
        .enum(['copy-ahead', 'stop-and-copy', 'post-copy'], 'must be copy-ahead, stop-and-copy or post-copy')
        .default('copy-ahead')
        .describe(
          'copy-ahead: memory is copied while the process runs, what it changes meanwhile again. stop-and-copy: nothing before ' +
            'the freeze, each byte once: less work for both nodes and the network, and a longer freeze. post-copy: it runs at its ' +
            'destination before the last of its memory has come; if the machine that it left is lost by then, so is the process. ' +
            'With `throttle` it is slowed down first, so that less follows. Default copy-ahead.',
        ),
      files: z
        .enum(['shared', 'carry'], 'must be shared or carry')
        .default('shared')
        .describe('shared: its files are there too. carry: they go with it, into a root of its own. Default shared.'),
      carry: z
        .array(
          z
            .string()
            .regex(/^\/[^\0]*$/, 'must be an absolute path')
            .max(4095),
        )
        .max(1000)
        .default([])
        .describe('With `files: carry`: files and folders that go with it besides those that it uses. Default: none.'),
    })
    .prefault({})
    .describe('How they move.'),
  limits: z
    .strictObject({
      cooldown: duration()
        .refine((ms) => ms >= 1000, 'must be at least 1s')
        .prefault('10m')
        .describe('A process that has moved, by whomever, stays where it is for so long. Default 10m.'),
      atOnce: z
        .int('must be a whole number')
        .min(1, 'must be at least 1')
        .max(64, 'must be at most 64')
        .default(1)
        .describe('So many of its processes are on their way at the same time. Default 1.'),
      moves: z
        .int('must be a whole number')
        .min(1, 'must be at least 1')
        .max(1000, 'must be at most 1000')
        .default(10)
        .describe('It begins at most so many moves, both ways, in the time that `per` says. Default 10.'),
      per: duration()
        .refine((ms) => ms >= 1000, 'must be at least 1s')
        .prefault('1h')
        .describe('The time for `moves`. Default 1h.'),
    })
    .prefault({})
    .describe('What it never exceeds.'),
});

/** The policy file as it may be written. What one setting says about another is checked by `parsePolicies`. */
export const policyFileSchema = z.strictObject({
  every: duration()
    .refine((ms) => ms >= 500 && ms <= 3_600_000, 'must be between 500ms and 1h')
    .prefault('5s')
    .describe('How often facts are read and decided upon. Default 5s.'),
  policies: z.array(policy).max(200).describe('Policies; of two that would move a process, the first decides.'),
});

export type WrittenFile = z.output<typeof policyFileSchema>;
export type WrittenPolicy = z.output<typeof policy>;
export type WrittenCondition = z.output<typeof condition>;
export type Selector = z.output<typeof selector>;

function isTimeZone(text: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: text });
    return true;
  } catch {
    return false;
  }
}

function isPrometheusUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, search, hash } = new URL(text);
  return ['http:', 'https:'].includes(protocol) && [username, password, search, hash].every((part) => part === '');
}
