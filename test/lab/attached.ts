import { setTimeout as sleep } from 'node:timers/promises';
import type { LabNode } from '../../cli/lab/lab-node.js';

/** Ids of the programs on a node's eth0, by hook: `xdp`, `ingress`, `egress`; a hook without one is left out. */
export async function attachedPrograms(node: LabNode): Promise<Record<string, number[]>> {
  const programs: Record<string, number[]> = {};
  const link = JSON.parse((await node.run(['ip', '-j', '-d', 'link', 'show', 'dev', 'eth0'])).stdout) as {
    xdp?: { prog?: { id: number } };
  }[];
  const xdp = link[0]?.xdp?.prog?.id;
  if (xdp !== undefined) programs.xdp = [xdp];
  if (!(await hasClsact(node))) return programs;
  for (const direction of ['ingress', 'egress']) {
    const { stdout } = await node.run(['tc', '-j', 'filter', 'show', 'dev', 'eth0', direction]);
    const filters = JSON.parse(stdout) as { options?: { prog?: { id: number } } }[];
    const ids = filters.flatMap(({ options }) => options?.prog?.id ?? []);
    if (ids.length > 0) programs[direction] = ids;
  }
  return programs;
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
