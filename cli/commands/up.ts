import { closeSync, writeSync } from 'node:fs';
import { pino } from 'pino';
import { ConfiguredCommand } from '../base-command.js';
import { steadyEngine } from '../node/engine.js';
import { run } from '../system/command.js';
import { favour } from '../system/priority.js';

export default class Up extends ConfiguredCommand {
  static override summary =
    "Run this node's daemon in the foreground: load or adopt the datapath, listen, move processes.";
  static override description =
    `Ends on Ctrl-C or SIGTERM and leaves the datapath attached: processes that are away stay reachable, and the next \`up\` adopts
what is there. \`homeproxy down\` detaches and removes it.

Exit status: 0 ended; 2 configuration or credentials; 7 something is missing on this machine, or another daemon runs.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --config ./homeproxy.yaml',
  ];
  static override enableJsonFlag = false;

  async run(): Promise<void> {
    steadyEngine();
    const config = await this.loadConfig();
    const { Daemon } = await import('../node/daemon.js');
    const logger = pino({ name: 'homeproxy', base: { node: config.node } }, pino.destination({ fd: 2, sync: true }));
    favour(); // a freeze lasts as long as we and CRIU wait for a processor
    const daemon = await Daemon.start(config, logger);
    await announceReady();
    await this.interruptible(async (signal) => {
      signal.addEventListener('abort', () => daemon.requestStop(), { once: true });
      await daemon.stopped;
    });
    logger.info('closing; the datapath stays as it is');
    await daemon.close();
  }
}

/** Tells whoever started us that we answer: one line into the descriptor that HOMEPROXY_READY_FD names; systemd, as sd_notify(3) does. */
async function announceReady(): Promise<void> {
  // Node.js has no datagram sockets in the file system.
  if (process.env.NOTIFY_SOCKET !== undefined) await run('systemd-notify', ['--ready']);
  const fd = Number(process.env.HOMEPROXY_READY_FD ?? '');
  if (!Number.isInteger(fd) || fd < 3) return;
  writeSync(fd, 'ready\n');
  closeSync(fd);
}
