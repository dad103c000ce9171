import { readFileSync, writeFileSync } from 'node:fs';
import { parse, stringify } from 'yaml';
import type { Lab } from '../../cli/lab/lab.js';

const CONFIG = '/etc/homeproxy/homeproxy.yaml';

/** Writes settings of one node into the list of nodes that every node has; the daemons must not run yet. */
export function setNode(lab: Lab, name: string, settings: Readonly<Record<string, unknown>>): void {
  for (const node of lab.nodes.filter(({ role }) => role !== 'client')) {
    const path = node.path(CONFIG);
    const config = parse(readFileSync(path, 'utf8')) as { nodes: { name: string }[] };
    const nodes = config.nodes.map((entry) => (entry.name === name ? { ...entry, ...settings } : entry));
    writeFileSync(path, stringify({ ...config, nodes }));
  }
}

/** Writes a section of one node's own configuration; its daemon must not run yet. */
export function setSection(lab: Lab, name: string, section: string, settings: unknown): void {
  const path = lab.node(name).path(CONFIG);
  const config = parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  writeFileSync(path, stringify({ ...config, [section]: settings }));
}
