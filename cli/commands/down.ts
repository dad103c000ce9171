import { join } from 'node:path';
import { Flags } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { asHomeproxyError } from '../errors.js';
import { downMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';

export default class Down extends ConfiguredCommand {
  static override summary = 'End the daemon, detach its programs and remove what it pinned.';
  static override description =
    `Refuses while a process is away or lives here for another home: their connections depend on the datapath. Programs of
others are never touched. Works without a running daemon as well.

Exit status: 0; 3 still needed.`;
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --force'];
  static override flags = {
    force: Flags.boolean({
      description: 'even if processes depend on it: their connections are cut',
      default: false,
    }),
  };

  async run(): Promise<{ removed: string[] }> {
    const { flags } = await this.parse(Down);
    const config = await this.loadConfig();
    const removed = await this.detach(join(config.paths.run, 'control.sock'), flags.force);
    for (const item of removed) this.log(`removed ${item}`);
    if (removed.length === 0) this.log('nothing was attached');
    return { removed };
  }

  private async detach(socket: string, force: boolean): Promise<string[]> {
    try {
      return (await callControl(socket, downMethod, { force })).removed;
    } catch (error) {
      if (asHomeproxyError(error).code !== 'DAEMON_DOWN') throw error;
    }
    const { detachWithoutDaemon } = await import('../node/detach.js');
    return detachWithoutDaemon(await this.loadConfig(), force);
  }
}
