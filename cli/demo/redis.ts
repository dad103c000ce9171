import { existsSync, mkdirSync, symlinkSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ExternalError, UserError } from '../errors.js';
import type { LabNode } from '../lab/lab-node.js';
import { readNamespace, readProcess } from '../system/procfs.js';

export const REDIS_PORT = 6379;

const FOLDER = '/run/demo';
const FILL = "for number = 1, ARGV[1] do redis.call('SET', 'fill:' .. number, string.rep('x', 1024)) end return 1";
const FILL_KEYS = '4000'; // about 4 MiB of data: some 15 MiB resident in all
const ACCEPT_WITHIN_MS = 10_000;
const RETRY_MS = 20;
const NAMESPACES = ['net', 'pid', 'mnt', 'uts', 'ipc', 'user'] as const;

/** A real Redis, an ordinary process of a lab node. */
export class DemoRedis {
  private constructor(
    private readonly node: LabNode,
    /** As the node numbers it. */
    readonly pid: number,
    private readonly runId: string,
  ) {}

  /**
   * Starts it, waits until it answers, and fills it.
   * @throws {UserError} `REDIS_MISSING`, exit 7
   * @throws {ExternalError} `REDIS_SILENT` when it does not answer in time
   */
  static async start(node: LabNode, signal: AbortSignal): Promise<DemoRedis> {
    mkdirSync(node.path(FOLDER), { recursive: true });
    const program = join(FOLDER, 'redis-server');
    symlinkSync(redisBinary(), node.path(program));
    const where = ['--bind', '0.0.0.0', '--port', String(REDIS_PORT), '--protected-mode', 'no', '--dir', '/'];
    const pid = await node.detach([program, ...where, '--save', '', '--appendonly', 'no', '--daemonize', 'no']);
    await filled(node, signal);
    return new DemoRedis(node, pid, await runIdOf(node));
  }

  /** Memory that it uses now, on the node where it was started. */
  get residentBytes(): number {
    return readProcess(this.node.machinePid(this.pid) ?? 0)?.residentBytes ?? 0;
  }

  /** What distinguishes it from the ordinary process that it was at first, in words; empty when nothing does. */
  async differences(): Promise<string[]> {
    const machinePid = this.node.machinePid(this.pid);
    if (machinePid === undefined) return [`${this.node.name} has no process ${this.pid} any more`];
    const differences: string[] = [];
    const comm = readProcess(machinePid)?.comm;
    if (comm !== 'redis-server') differences.push(`process ${this.pid} of ${this.node.name} is ${comm ?? 'gone'} now`);
    const foreign = NAMESPACES.filter(
      (kind) => readNamespace(machinePid, kind) !== readNamespace(this.node.initPid, kind),
    );
    if (foreign.length > 0) differences.push(`Redis is in namespaces of its own: ${foreign.join(', ')}`);
    if ((await runIdOf(this.node)) !== this.runId) differences.push('another Redis answers at its address');
    return differences;
  }
}

/** redis-server, or the same program under the name that it has in Debian's redis-tools. */
function redisBinary(): string {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder.startsWith('/'));
  for (const name of ['redis-server', 'redis-check-rdb']) {
    for (const folder of [...folders, '/usr/local/bin', '/usr/bin']) {
      const path = join(folder, name);
      if (existsSync(path)) return path;
    }
  }
  throw new UserError({
    code: 'REDIS_MISSING',
    message: 'there is no Redis on this machine',
    remedy: 'npm run setup      # or: apt-get install redis-tools',
    exitStatus: 7,
  });
}

async function filled(node: LabNode, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + ACCEPT_WITHIN_MS;
  for (;;) {
    try {
      await redisCli(node, ['EVAL', FILL, '0', FILL_KEYS]);
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (performance.now() < deadline) {
        await sleep(RETRY_MS, undefined, { signal });
        continue;
      }
      throw new ExternalError({
        code: 'REDIS_SILENT',
        message: `Redis does not answer on ${node.name} after ${ACCEPT_WITHIN_MS / 1000} s`,
        command: 'redis-server',
        log: error instanceof ExternalError ? error.log : [],
        cause: error,
      });
    }
  }
}

async function runIdOf(node: LabNode): Promise<string> {
  return /^run_id:(\w+)/m.exec(await redisCli(node, ['INFO', 'server']))?.[1] ?? '';
}

/** `-e`: an error reply is a failure. */
async function redisCli(node: LabNode, command: readonly string[]): Promise<string> {
  const client = ['redis-cli', '-e', '-h', node.address, '-p', String(REDIS_PORT)];
  return (await node.run([...client, ...command], { timeoutMs: 10_000 })).stdout;
}
