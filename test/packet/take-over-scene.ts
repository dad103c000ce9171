/** Two uplinks on which one version of the datapath takes over from another. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfMap, xdpQuery } from '../../addon/lib/index.js';
import type { BindingStruct } from '../../cli/forwarding/abi.gen.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { bindingOf } from './binding-fields.js';
import { classifier } from './classifiers.js';

const OBJECT = projectFile('bpf/build/homeproxy.bpf.o');
export const ADDRESS = '10.0.0.2';
export const PORT = 6379;

export interface Context {
  pins: string;
  run: string;
}

export const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
export const tc = (...args: string[]): string => execFileSync('tc', args, { encoding: 'utf8' });

export function ifindex(name: string): number {
  const [link] = JSON.parse(ip('-j', 'link', 'show', name)) as { ifindex: number }[];
  return link?.ifindex ?? 0;
}

export const binding: BindingStruct = {
  ...bindingOf({ action: 'tunnel', egress: 'shut' }, ADDRESS),
  epoch: 3,
};

export const UPLINKS = ['up0', 'up1'];
export interface OpenChange {
  readonly attach?: AttachChoice;
  readonly objectPath?: string;
  readonly uplinks?: readonly string[];
  readonly flowCapacity?: number;
  readonly tcx?: boolean;
}

export function open({ pins, run }: Context, change: OpenChange = {}): Promise<Datapath> {
  const { attach = 'xdp', objectPath = OBJECT, uplinks = UPLINKS, ...rest } = change;
  return Datapath.open({
    objectPath,
    pins,
    run,
    nodeAddress: ADDRESS,
    uplinks: uplinks.map((name) => ({ interface: name, attach })),
    ...rest,
  });
}

/** Ids of our programs by interface and hook; a hook without one is left out. */
export function attached(): Record<string, number> {
  const found: Record<string, number> = {};
  for (const name of UPLINKS) {
    const index = ifindex(name);
    const xdp = xdpQuery(index)?.programId;
    if (xdp !== undefined) found[`${name} xdp`] = xdp;
    for (const direction of ['ingress', 'egress'] as const) {
      const present = classifier(index, direction);
      if (present !== undefined) found[`${name} ${direction}`] = present;
    }
  }
  return found;
}

export const ALL_HOOKS = UPLINKS.flatMap((name) => ['xdp', 'ingress', 'egress'].map((hook) => `${name} ${hook}`));

/** Everything pinned, with the ids of the maps: the same before and after means that nothing was touched. */
export function pinned({ pins }: Context): Record<string, number> {
  if (!existsSync(pins)) return {};
  return Object.fromEntries(
    readdirSync(pins, { recursive: true, encoding: 'utf8' })
      .sort()
      .filter((name) => name.includes('/') && !/^(links|programs)/.test(name))
      .map((name) => {
        const map = BpfMap.openPinned(join(pins, name));
        map.close();
        return [name, map.id];
      }),
  );
}

/** A running datapath with a binding, a port and counts, left by its daemon. */
export async function leave(context: Context, change: OpenChange = {}): Promise<void> {
  const first = await open(context, change);
  first.tables.putBinding(4, binding);
  first.tables.claimPort({ protocol: 'tcp', address: ADDRESS, port: PORT }, 4, false);
  first.close();
}

/** Compiles the datapath after changing its source: another version of it. */
export function version(name: string, changes: Readonly<Record<string, readonly [string, string]>>): string {
  const source = mkdtempSync(join(folder, name));
  for (const file of readdirSync(projectFile('bpf')).filter((each) => /\.(h|c)$|^Makefile$/.test(each))) {
    const text = readFileSync(projectFile(`bpf/${file}`), 'utf8');
    const [before, after] = changes[file] ?? ['', ''];
    assert.ok(text.includes(before), `${file} has no "${before}" to be changed`);
    writeFileSync(join(source, file), before === '' ? text : text.replace(before, after));
  }
  execFileSync('make', ['-s', '-C', source], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(source, 'build/homeproxy.bpf.o');
}

/** A suite whose tests begin with two uplinks and no datapath. */
export function takingOver(title: string): Test<Context> {
  const test = suite<Context>(title);
  test.before.each((context) => {
    for (const name of UPLINKS) {
      ip('link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}-peer`);
      for (const end of [name, `${name}-peer`]) ip('link', 'set', end, 'up');
    }
    context.pins = join(mkdtempSync(join(bpffs, 'upgrade')), 'pins');
    context.run = mkdtempSync(join(folder, 'upgrade'));
  });

  test.after.each(() => {
    for (const name of UPLINKS) if (existsSync(`/sys/class/net/${name}`)) ip('link', 'del', name);
  });
  return test;
}
