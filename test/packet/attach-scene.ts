/** An uplink onto which the datapath comes, and programs of somebody else beside it. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'uvu';
import { BpfObject } from '../../addon/lib/index.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { classifiers } from './classifiers.js';

const OBJECT = projectFile('bpf/build/homeproxy.bpf.o');
export const PRIORITY = 0x6870;

export interface Context {
  pins: string;
  run: string;
  ifindex: number;
}

export const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
export const qdiscs = (): string => execFileSync('tc', ['qdisc', 'show', 'dev', 'up0'], { encoding: 'utf8' });

export const open = ({ pins, run }: Context, attach: AttachChoice = 'xdp', tcx = true): Promise<Datapath> =>
  Datapath.open({
    tcx,
    objectPath: OBJECT,
    pins,
    run,
    nodeAddress: '10.0.0.2',
    uplinks: [{ interface: 'up0', attach }],
  });

/** How the tc programs of the uplink are attached: ingress, then egress. */
export const ways = (ifindex: number): string[] =>
  (['ingress', 'egress'] as const).flatMap((direction) => classifiers(ifindex, direction)).map(({ by }) => by);

/** Both ways in which tc programs are attached. */
export const WAYS = [
  ['tcx', true],
  ['filters', false],
] as const;

const FOREIGN = `
  __attribute__((section("xdp"))) int foreign_xdp(void *context) { return 2; }
  unsigned long seen;
  __attribute__((section("tc"))) int foreign_tc(void *context) { __sync_fetch_and_add(&seen, 1); return -1; }
  char terms[] __attribute__((section("license"))) = "GPL";
`;

/** Somebody else's programs: they pass everything. */
export function foreignProgram(name: 'xdp' | 'tc'): { object: BpfObject; program: ReturnType<BpfObject['program']> } {
  const source = join(folder, 'foreign.bpf.c');
  const object = join(folder, 'foreign.o');
  writeFileSync(source, FOREIGN);
  execFileSync('clang', ['-target', 'bpf', '-O2', '-g', '-c', source, '-o', object]);
  const loaded = BpfObject.open(object).load();
  return { object: loaded, program: loaded.program(`foreign_${name}`) };
}

/** A suite whose tests begin with an uplink and no datapath. */
export function attaching(title: string): Test<Context> {
  const test = suite<Context>(title);
  test.before.each((context) => {
    ip('link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'peer0');
    for (const name of ['up0', 'peer0']) ip('link', 'set', name, 'up');
    const [link] = JSON.parse(ip('-j', 'link', 'show', 'up0')) as { ifindex: number }[];
    context.ifindex = link?.ifindex ?? 0;
    context.pins = mkdtempSync(join(bpffs, 'attach'));
    context.run = mkdtempSync(join(folder, 'attach'));
  });

  test.after.each(() => {
    ip('link', 'del', 'up0');
  });
  return test;
}
