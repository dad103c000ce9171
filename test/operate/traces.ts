import type { LabNode } from '../../cli/lab/lab-node.js';

/** Files of programs that the quick start uses, which are not homeproxy's: they keep them as they do for any package. */
const OTHERS = [
  '/root/\\.npm', // npm's cache and logs
  '/run/lab', // what makes the machine one
  '/run/log/journal',
  '/run/systemd',
  '/var/log/journal',
  '/var/cache/apt',
  '/var/lib/apt',
  '/var/log/apt',
];

/** What can be left over on a machine, by kind: every file, user, unit, process, interface, route, rule, filter and setting. */
const QUESTIONS: Readonly<Record<string, readonly string[]>> = {
  files: ['find', '/', '(', '-path', '/proc', '-o', '-path', '/sys', ')', '-prune', '-o', '-print'],
  'pinned programs and maps': ['find', '/sys/fs/bpf', '-mindepth', '1'],
  cgroups: ['find', '/sys/fs/cgroup', '-type', 'd', '!', '-name', '*.slice'], // the first service brings its slice, which stays
  users: ['getent', 'passwd'],
  groups: ['getent', 'group'],
  units: ['systemctl', 'list-unit-files', '--all', '--no-legend', '--no-pager', '--plain'],
  'units in memory': ['systemctl', 'list-units', '--all', '--no-legend', '--no-pager', '--plain', 'homeproxy*'],
  processes: ['ps', '-e', '-o', 'args='],
  mounts: ['findmnt', '--noheadings', '--list', '--output', 'TARGET,FSTYPE'],
  interfaces: ['ip', '-details', '-oneline', 'link'],
  addresses: ['ip', '-oneline', 'address'],
  rules: ['ip', 'rule'],
  'rules of IPv6': ['ip', '-6', 'rule'],
  routes: ['ip', 'route', 'show', 'table', 'all'],
  filters: ['tc', 'qdisc'],
  settings: ['sysctl', '--all', '--ignore', '--pattern', '^net[.]'],
};

export type Traces = ReadonlyMap<string, readonly string[]>;

/** All that is on a machine now. One question after the other: none is to see the processes of another. */
export async function tracesOn(machine: LabNode): Promise<Traces> {
  const found = new Map<string, string[]>();
  for (const [kind, command] of Object.entries(QUESTIONS)) {
    const { stdout } = await machine.run(command);
    found.set(
      kind,
      stdout.split('\n').map((line) => line.trim()),
    );
  }
  return found;
}

/** What is there now and was not before. */
export function added(before: Traces, now: Traces): string[] {
  const ofOthers = new RegExp(`^(${OTHERS.join('|')})(/|$)`);
  return [...now].flatMap(([kind, lines]) => {
    const known = new Set(before.get(kind));
    const added = lines.filter((line) => !known.has(line));
    return added.filter((line) => !ofOthers.test(line)).map((line) => `${kind}: ${line}`);
  });
}
