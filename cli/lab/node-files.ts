import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { Authority } from '../identity/ca.js';
import { projectFile } from '../system/project.js';
import { type LabAttach, NODE_INTERFACE } from './plan.js';
import type { LabState, NodeState } from './state.js';

/** Where a node has the `homeproxy` command; first in the PATH of what runs there. */
export const NODE_PROGRAMS = '/run/lab/bin';

/** Writes what belongs to a node alone into it: names, configuration, certificate, the `homeproxy` command. */
export async function writeNodeFiles(
  node: NodeState,
  lab: Pick<LabState, 'nodes' | 'attach'>,
  authority: Authority,
): Promise<void> {
  const inside = (path: string): string => join(`/proc/${node.init.pid}/root`, path);
  const hosts = ['127.0.0.1 localhost', '::1 localhost', ...lab.nodes.map(({ name, address }) => `${address} ${name}`)];
  writeFileSync(inside('/etc/hosts'), `${hosts.join('\n')}\n`);
  writeFileSync(inside('/etc/hostname'), `${node.name}\n`);

  mkdirSync(inside(NODE_PROGRAMS), { recursive: true });
  const command = inside(`${NODE_PROGRAMS}/homeproxy`);
  writeFileSync(command, `#!/bin/sh\nexec ${quoted(process.execPath)} ${quoted(projectFile('cli/bin/run.js'))} "$@"\n`);
  chmodSync(command, 0o755);

  if (node.role === 'client') return; // a correspondent runs nothing of ours
  const { issueCertificate } = await import('../identity/ca.js');
  const { certificate, key } = await issueCertificate(authority, {
    name: node.name,
    addresses: [node.address, node.address6],
  });
  const all = { mode: 0o644 }; // commands of ordinary users read the configuration too
  writeFileSync(inside('/etc/homeproxy/ca.pem'), authority.certificate, all);
  writeFileSync(inside('/etc/homeproxy/node.pem'), certificate, all);
  writeFileSync(inside('/etc/homeproxy/node.key'), key, { mode: 0o600 });
  writeFileSync(inside('/etc/homeproxy/homeproxy.yaml'), configuration(node.name, lab), all);
}

function configuration(node: string, lab: { nodes: readonly NodeState[]; attach: LabAttach }): string {
  const nodes = lab.nodes.filter(({ role }) => role !== 'client').map(({ name, address }) => ({ name, address }));
  return stringify({ node, nodes, uplinks: [{ interface: NODE_INTERFACE, attach: lab.attach }] });
}

/** A path as one word of a shell script. */
function quoted(path: string): string {
  return `'${path.replaceAll("'", "'\\''")}'`;
}
