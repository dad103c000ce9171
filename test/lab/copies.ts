import type { Lab } from '../../cli/lab/lab.js';
import { Cgroup, unifiedMount } from '../../cli/system/cgroup.js';
import { listProcesses, readCommandLine, readNamespacePids, readProcess, readText } from '../../cli/system/procfs.js';

/** One process of a lab, as this machine sees it: from here the processes of every node and pod are visible. */
export interface Copy {
  readonly node: string;
  /** Its cgroup below the node's. */
  readonly cgroup: string;
  readonly machinePid: number;
  /** The pid that it has for itself. */
  readonly pid: number;
  /** 1: an ordinary process of the node; more: in a pid namespace inside it. */
  readonly depth: number;
  readonly commandLine: string;
  /** Not stopped, traced or a zombie, nor in a frozen cgroup. A copy that CRIU still restores, or holds, looks the same. */
  readonly live: boolean;
}

/** Every process of a lab's nodes. */
export function processesOf(lab: Lab): Copy[] {
  const top = `/homeproxy-lab/${lab.name}/`;
  const machineDepth = readNamespacePids(process.pid).length;
  return listProcesses().flatMap((machinePid) => {
    const path = /^0::(.*)$/m.exec(readText(`/proc/${machinePid}/cgroup`) ?? '')?.[1] ?? '';
    if (!path.startsWith(top)) return [];
    const [node = '', ...below] = path.slice(top.length).split('/');
    const pids = readNamespacePids(machinePid);
    const identity = readProcess(machinePid);
    if (identity === undefined || node === 'switch') return [];
    return {
      node,
      cgroup: `/${below.join('/')}`,
      machinePid,
      pid: pids.at(-1) ?? 0,
      depth: pids.length - machineDepth,
      commandLine: readCommandLine(machinePid),
      live: !'TtZX'.includes(identity.state) && !frozen(path),
    };
  });
}

/** Every copy of a program, by a part of its command line that nothing else has. */
export function copiesOf(lab: Lab, program: string): Copy[] {
  return processesOf(lab).filter(({ commandLine }) => commandLine.split(' ')[0]?.includes(program) === true);
}

/** Where a program runs, in words for one assertion: `host1 (in a pod)`, `home`, `host1 (in a pod, stopped)`. */
export function placesOf(lab: Lab, program: string): string[] {
  return copiesOf(lab, program).map(({ node, depth, live }) => {
    const notes = [...(depth > 1 ? ['in a pod'] : []), ...(live ? [] : ['stopped'])];
    return notes.length === 0 ? node : `${node} (${notes.join(', ')})`;
  });
}

function frozen(cgroup: string): boolean {
  const { path } = new Cgroup(`${unifiedMount()}${cgroup}`);
  return /^frozen 1$/m.test(readText(`${path}/cgroup.events`) ?? '');
}
