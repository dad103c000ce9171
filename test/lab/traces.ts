import { existsSync, readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lab } from '../../cli/lab/lab.js';
import { labCgroup } from '../../cli/lab/lab-cgroup.js';
import { projectFile } from '../../cli/system/project.js';
import { processesOf } from './copies.js';

const OWN_CGROUPS = new Set(['init', 'daemon', 'session']);
const PINS = '/sys/fs/bpf/homeproxy';

/**
 * Everything on a node that a migration can leave: devices, processes and namespaces beside the node's own, cgroups, images,
 * mounts, files in bpffs and entries in maps. Compare it with what was there before.
 */
export async function tracesOf(lab: Lab, name: string): Promise<string[]> {
  const node = lab.node(name);
  const [links, mounts, maps] = await Promise.all([
    node.run(['ls', '/sys/class/net']),
    node.run(['cat', '/proc/self/mountinfo']),
    mapEntries(lab, name),
  ]);
  const images = node.path('/run/homeproxy/images');
  return [
    ...words(links.stdout).map((link) => `interface ${link}`),
    ...strangers(lab, name),
    ...cgroups(`${labCgroup(lab.name)}/${name}`, ''),
    ...(existsSync(images) ? readdirSync(images).map((image) => `images ${image}`) : []),
    `${mounts.stdout.trim().split('\n').length} mounts`,
    ...Object.entries(maps)
      .filter(([map]) => map !== 'maps/local_addresses') // the node's own: a link that was cut has lost those of IPv6
      .map(([map, count]) => `map ${map}: ${count}`),
  ].sort();
}

/** The traces of several nodes, once none changes any more from what is `expected`; at most 10 s later. */
export async function settledTraces(lab: Lab, expected: Record<string, string[]>): Promise<Record<string, string[]>> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const found = await tracesOfAll(lab, Object.keys(expected));
    if (JSON.stringify(found) === JSON.stringify(expected) || Date.now() > deadline) return found;
    await sleep(100);
  }
}

export async function tracesOfAll(lab: Lab, nodes: readonly string[]): Promise<Record<string, string[]>> {
  const all = await Promise.all(nodes.map(async (node) => [node, await tracesOf(lab, node)] as const));
  return Object.fromEntries(all);
}

/** How many entries each pinned map of a node has; empty when nothing is pinned. */
export async function mapEntries(lab: Lab, name: string): Promise<Record<string, number>> {
  if (!existsSync(lab.node(name).path(PINS))) return {};
  const program = projectFile('dist/test/lab/map-entries-main.js');
  const { stdout } = await lab.node(name).run([process.execPath, program, PINS]);
  return JSON.parse(stdout) as Record<string, number>;
}

/** Processes that are neither the node's init, nor its daemon, nor started by us. */
function strangers(lab: Lab, name: string): string[] {
  return processesOf(lab)
    .filter(({ node }) => node === name)
    .filter(({ cgroup, depth, commandLine }) => {
      if (depth > 1) return true;
      if (cgroup === '/init') return !/^(catatonit|unshare) /.test(commandLine);
      if (cgroup === '/daemon') return !/(cli\/bin\/run|test\/fault\/daemon-main)\.js up$/.test(commandLine);
      return cgroup !== '/session';
    })
    .map(({ commandLine, cgroup }) => `process ${commandLine} in ${cgroup}`);
}

function cgroups(folder: string, below: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => {
      const path = `${below}/${name}`;
      const deeper = cgroups(`${folder}/${name}`, path);
      // The folder of all pods may stay, empty.
      return (below === '' && OWN_CGROUPS.has(name)) || path === '/homeproxy' ? deeper : [`cgroup ${path}`, ...deeper];
    });
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}
