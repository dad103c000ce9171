import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { processRecord } from '../../cli/lab/holder.js';
import type { Lab } from '../../cli/lab/lab.js';
import { LabNode } from '../../cli/lab/lab-node.js';
import { run } from '../../cli/system/command.js';
import { readChildren } from '../../cli/system/procfs.js';
import { projectFile } from '../../cli/system/project.js';
import { NodeCommand } from '../lab/node-command.js';
import { ENVIRONMENT } from './npm.js';

const CGROUP = 'systemd';
const UNITS = '/run/lab/units';
const SYSTEM_UNITS = '/lib/systemd/system';
const JOURNAL = 'systemd-journald.service';
/**
 * All that systemd finds here of the machine's units. Others set what belongs to the kernel, and so to every node and to the
 * machine: its parameters (systemd-sysctl), modules, mounts, devices.
 */
const UNIT_NAMES = [
  'basic.target',
  'multi-user.target',
  'network-online.target',
  'network.target',
  'paths.target',
  'shutdown.target',
  'slices.target',
  'sockets.target',
  'sysinit.target',
  'systemd-journald-dev-log.socket',
  JOURNAL,
  'systemd-journald.socket',
  'timers.target',
];
/** As systemd does for itself, and so for its services, where it has booted a machine: cores are as large as they may be. */
const CORES = ['bash', '-c', 'ulimit -Sc hard && exec "$@"', 'bash']; // without a fork: the first child is systemd
/** What the package manager knows to be installed. */
const PACKAGES = '/var/lib/dpkg';

export const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A node of a lab, where no daemon runs, that has file systems of its own to install into, and systemd as pid 1. */
export async function bootMachine(lab: Lab, name: string): Promise<LabNode> {
  const node = lab.node(name);
  for (const folder of await programFolders()) {
    await node.run(['mkdir', '-p', `/run/lab/own${folder}`, `/run/lab/work${folder}`]);
    const layers = `lowerdir=${folder},upperdir=/run/lab/own${folder},workdir=/run/lab/work${folder}`;
    await node.run(['mount', '-t', 'overlay', '-o', layers, 'own', folder]);
  }
  return await bootSystemd(lab, node);
}

/**
 * Such a machine, which has not seen homeproxy: with the packages' state, npm with a cache, and neither checkout nor
 * configuration. A node reaches neither the registry nor Debian's archive: of packages it can say only that they are there.
 * @param npmCache a folder with all that the installation asks the registry for
 */
export async function bootFreshMachine(lab: Lab, name: string, npmCache: string): Promise<LabNode> {
  const machine = await bootMachine(lab, name);
  rmSync(machine.path('/run/lab/bin'), { recursive: true });
  rmSync(machine.path('/etc/homeproxy'), { recursive: true });
  if (existsSync(PACKAGES)) await run('cp', ['-a', PACKAGES, machine.path(PACKAGES)]);
  await run('cp', ['-a', npmCache, machine.path('/root/.npm')]);
  await machine.run(['mkdir', '-p', '/root/.cache']); // every home has one
  const { stdout: registry } = await run('npm', ['config', 'get', 'registry'], { env: ENVIRONMENT });
  writeFileSync(machine.path('/root/.npmrc'), `offline=true\nregistry=${registry.trim()}\n`);
  await machine.run(['mount', '-t', 'tmpfs', '-o', 'ro', 'nothing', projectFile('')]);
  return machine;
}

/** Where a reader's shell finds programs. */
export function searchPath(): string {
  return [...new Set([...SYSTEM_PATH.split(':'), dirname(process.execPath)])].join(':');
}

/** What a package is installed into: by apt, and by npm where its prefix is another one. */
async function programFolders(): Promise<string[]> {
  const { stdout } = await run('npm', ['prefix', '--global'], { env: ENVIRONMENT });
  const prefix = stdout.trim();
  return prefix === '/usr' || prefix.startsWith('/usr/') ? ['/usr'] : ['/usr', prefix];
}

async function bootSystemd(lab: Lab, node: LabNode): Promise<LabNode> {
  const wanted = `${UNITS}/sysinit.target.wants`;
  mkdirSync(node.path(wanted), { recursive: true });
  for (const unit of UNIT_NAMES) symlinkSync(`${SYSTEM_UNITS}/${unit}`, node.path(`${UNITS}/${unit}`));
  symlinkSync(`${UNITS}/${JOURNAL}`, node.path(`${wanted}/${JOURNAL}`));
  await node.run(['mkdir', `/sys/fs/cgroup/${CGROUP}`]);
  const environment = ['container=lab', `SYSTEMD_UNIT_PATH=/etc/systemd/system:${UNITS}`, `PATH=${SYSTEM_PATH}`];
  const namespaces = ['unshare', '--pid', '--mount', '--fork', '--kill-child', '--mount-proc'];
  const systemd = ['/lib/systemd/systemd', '--system', '--unit=multi-user.target', '--log-target=console'];
  const outer = await node.detach(
    [...CORES, 'env', '--ignore-environment', ...environment, ...namespaces, ...systemd],
    {
      cgroup: CGROUP,
      output: '/var/log/boot.log',
    },
  );
  const pid = await until(`${node.name} has its systemd`, async () => {
    const parent = node.machinePid(outer);
    return parent === undefined ? undefined : readChildren(parent)[0];
  });
  const state = lab.files.read()?.nodes.find(({ name }) => name === node.name);
  if (state === undefined) throw new Error(`the lab has no node ${node.name}`);
  const machine = new LabNode({ ...state, init: processRecord(pid) });
  await until(`${node.name} has booted`, async () => {
    const { stdout } = await new NodeCommand(machine, ['systemctl', 'is-system-running']).ended;
    return stdout.trim() === 'running' ? true : undefined;
  });
  return machine;
}

async function until<Value>(what: string, look: () => Promise<Value | undefined>): Promise<Value> {
  for (const deadline = Date.now() + 30_000; ; await sleep(50)) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error(`after 30 s not yet: ${what}`);
  }
}
