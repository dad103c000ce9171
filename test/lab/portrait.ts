import type { LabNode } from '../../cli/lab/lab-node.js';

const STATUS_LINES = /^(Name|Umask|PPid|Uid|Gid|Groups|NSpid|Threads|Sig(?:Blk|Ign|Cgt)|Cap\w+|NoNewPrivs|Seccomp):/;
const NAMESPACES = ['net', 'pid', 'mnt', 'uts', 'ipc', 'user', 'cgroup'];

/**
 * What a process is to its node, line by line: family, namespaces, cgroup, folders, files, environment, limits, signals,
 * privileges. Sockets are left out: their number changes with the clients.
 */
export async function portraitOf(node: LabNode, pid: number): Promise<string[]> {
  const proc = `/proc/${pid}`;
  const { stdout } = await node.run(['sh', '-c', PORTRAIT, 'sh', proc, ...NAMESPACES]);
  const lines = stdout.split('\n').filter((line) => line !== '');
  return lines.filter((line) => !/^\w+:\t/.test(line) || STATUS_LINES.test(line));
}

/** Whether a process is in the same namespaces as the node's first process. */
export async function namespaceDifferences(node: LabNode, pid: number): Promise<string[]> {
  const links = async (of: number): Promise<string[]> => {
    const paths = NAMESPACES.map((kind) => `/proc/${of}/ns/${kind}`);
    return (await node.run(['readlink', ...paths])).stdout.trim().split('\n');
  };
  const [own, init] = await Promise.all([links(pid), links(1)]);
  return own.filter((namespace, index) => namespace !== init[index]);
}

const PORTRAIT = `
proc=$1
shift
set -- $(cat $proc/stat | sed 's/.*) //')
echo "parent $2 group $3 session $4"
grep '^0::' $proc/cgroup
cat $proc/status $proc/limits
echo "oom $(cat $proc/oom_score_adj)"
for link in exe cwd root; do echo "$link $(readlink $proc/$link)"; done
tr '\\0' '\\n' <$proc/environ
for fd in $proc/fd/*; do readlink $fd; done | grep -v '^socket:' | sed 's/:\\[.*//' | sort
`;
