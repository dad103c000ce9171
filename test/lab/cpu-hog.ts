import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';

/** On each processor: the kernel takes 8 % of the way from the load to the number of those that want to run every 5 s. */
const EACH = 8;
/** For a minute at most. */
const SECONDS = '60';
const BURN = 'i=0; while [ $i -lt "$1" ]; do while :; do :; done & i=$((i + 1)); done; wait';

/** Processes that want a processor all the time, and leave it to whoever else does. */
export class CpuHog {
  private constructor(private readonly burners: ChildProcess) {}

  static start(): CpuHog {
    const burn = ['sh', '-c', BURN, 'sh', String(EACH * cpus().length)];
    return new CpuHog(spawn('timeout', [SECONDS, 'nice', '-n', '19', ...burn], { stdio: 'ignore' }));
  }

  async end(): Promise<void> {
    const ended = once(this.burners, 'exit');
    this.burners.kill('SIGTERM'); // timeout(1) passes it on to all that it has started
    await ended;
  }
}
