import { accessSync, constants, existsSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { unifiedMount } from '../system/cgroup.js';
import { readText } from '../system/procfs.js';
import { type Finding, failed, ok, warning } from './finding.js';

const BPF_FS_MAGIC = 0xcafe4a11; // include/uapi/linux/magic.h
const TMPFS_MAGIC = 0x01021994;

/** What the kernel and its file systems must offer. */
export function checkMachine(paths: { readonly run: string; readonly bpf: string }): Finding[] {
  return [
    privilege(),
    kernelVersion(),
    existsSync('/sys/kernel/btf/vmlinux')
      ? ok('kernel-btf', 'the kernel describes its types')
      : warning('kernel-btf', 'the kernel has no BTF', 'boot a kernel with CONFIG_DEBUG_INFO_BTF'),
    bpffs(paths.bpf),
    cgroup(),
    existsSync('/dev/net/tun')
      ? ok('tun', 'TAP devices can be made')
      : failed('tun', '/dev/net/tun is missing: packets of a frozen process cannot be parked', 'modprobe tun'),
    existsSync('/proc/self/timens_offsets')
      ? ok('time-namespace', 'monotonic clocks can be kept')
      : warning(
          'time-namespace',
          'the kernel has no time namespaces: monotonic clocks may jump',
          'use Linux 5.6 or newer',
        ),
    runFolder(),
    ...programs(),
  ];
}

function privilege(): Finding {
  if (process.geteuid?.() !== 0) return failed('privilege', 'not root', 'run it as root: sudo homeproxy check');
  return ok('privilege', 'root');
}

/** 5.18 brought bpf_xdp_load_bytes, 5.13 bpf_for_each_map_elem, 5.12 bpf_check_mtu: with any older one the programs do not load. */
function kernelVersion(): Finding {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  const enough = major > 5 || (major === 5 && minor >= 18);
  return enough ? ok('kernel', release()) : failed('kernel', `${release()} is too old`, 'use Linux 5.18 or newer');
}

function bpffs(pins: string): Finding {
  const mount = join(pins, '..');
  const kind = existsSync(mount) ? statfsSync(mount).type : 0;
  return kind >>> 0 === BPF_FS_MAGIC
    ? ok('bpffs', `mounted on ${mount}`)
    : failed('bpffs', `${mount} is not a bpffs: programs would end with the daemon`, `mount -t bpf bpf ${mount}`);
}

function cgroup(): Finding {
  try {
    return ok('cgroup2', `mounted on ${unifiedMount()}`);
  } catch (error) {
    return failed('cgroup2', (error as Error).message, 'mount -t cgroup2 none /sys/fs/cgroup/unified');
  }
}

/** CRIU keeps its kernel probe only on a tmpfs; without it each start costs about 35 ms of the freeze. */
function runFolder(): Finding {
  return statfsSync('/run').type === TMPFS_MAGIC
    ? ok('run-tmpfs', '/run is a tmpfs')
    : warning('run-tmpfs', '/run is not a tmpfs: CRIU probes the kernel at each start', 'mount a tmpfs on /run');
}

function programs(): Finding[] {
  const packages = {
    ip: 'iproute2',
    ethtool: 'ethtool',
    unshare: 'util-linux',
    nsenter: 'util-linux',
    catatonit: 'catatonit',
  };
  return Object.entries(packages).map(([program, packageName]) =>
    onPath(program)
      ? ok(`program:${program}`, 'found')
      : failed(`program:${program}`, `${program} is not installed`, `apt-get install ${packageName}`),
  );
}

function onPath(program: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Reverse-path filters of an interface: the stricter of its own and the `all` setting counts (ip-sysctl, rp_filter). */
export function reversePathFilter(name: string): Finding {
  const read = (scope: string): number => Number(readText(`/proc/sys/net/ipv4/conf/${scope}/rp_filter`) ?? 0);
  const mode = Math.max(read('all'), read(name));
  const words = ['off', 'strict', 'loose'][mode] ?? String(mode);
  return ok(`rp-filter:${name}`, `${words}; packets for pods are delivered by our programs and never meet it`);
}
