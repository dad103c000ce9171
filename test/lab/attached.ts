import { setTimeout as sleep } from 'node:timers/promises';
import { tcxQuery, withNetworkNamespace } from '../../addon/lib/index.js';
import type { LabNode } from '../../cli/lab/lab-node.js';

/** Ids of the programs on a node's eth0, by hook: `xdp`, `ingress`, `egress`; a hook without one is left out. */
export async function attachedPrograms(node: LabNode): Promise<Record<string, number[]>> {
  const programs: Record<string, number[]> = {};
  const [link] = JSON.parse((await node.run(['ip', '-j', '-d', 'link', 'show', 'dev', 'eth0'])).stdout) as {
    ifindex: number;
    xdp?: { prog?: { id: number } };
  }[];
  const xdp = link?.xdp?.prog?.id;
  if (xdp !== undefined) programs.xdp = [xdp];
  const filters = await hasClsact(node);
  for (const direction of ['ingress', 'egress'] as const) {
    const ids = withNetworkNamespace(`/proc/${node.initPid}/ns/net`, () => tcxQuery(link?.ifindex ?? 0, direction)).map(
      ({ programId }) => programId,
    );
    if (filters) ids.push(...(await filterPrograms(node, direction)));
    if (ids.length > 0) programs[direction] = ids;
  }
  return programs;
}

async function filterPrograms(node: LabNode, direction: string): Promise<number[]> {
  const { stdout } = await node.run(['tc', '-j', 'filter', 'show', 'dev', 'eth0', direction]);
  const filters = JSON.parse(stdout) as { options?: { prog?: { id: number } } }[];
  return filters.flatMap(({ options }) => options?.prog?.id ?? []);
}

export async function hasClsact(node: LabNode): Promise<boolean> {
  return (await node.run(['tc', 'qdisc', 'show', 'dev', 'eth0'])).stdout.includes('clsact');
}

/** Looks again and again which programs are attached, until `work` is done. Returns every different answer, in order. */
export async function attachedDuring(node: LabNode, work: () => Promise<unknown>): Promise<Record<string, number[]>[]> {
  const seen: Record<string, number[]>[] = [await attachedPrograms(node)];
  let over = false;
  const done = work().finally(() => {
    over = true;
  });
  while (!over) {
    const found = await attachedPrograms(node);
    if (JSON.stringify(found) !== JSON.stringify(seen.at(-1))) seen.push(found);
    await sleep(10);
  }
  await done;
  return seen;
}
