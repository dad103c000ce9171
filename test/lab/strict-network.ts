import { ExternalError } from '../../cli/errors.js';
import type { Lab } from '../../cli/lab/lab.js';
import { run } from '../../cli/system/command.js';

/** Rules on the lab's switch, as networks have them that trust nobody: each drops and counts. */
export class StrictNetwork {
  private constructor(private readonly hub: number) {}

  /** @param rules nftables matches by name, for frames that cross the switch: `iifname "host1" ip protocol 4` */
  static async impose(lab: Lab, rules: Readonly<Record<string, string>>): Promise<StrictNetwork> {
    const hub = lab.files.read()?.switch.pid;
    if (hub === undefined) throw new Error(`the lab ${lab.name} has no switch`);
    const network = new StrictNetwork(hub);
    const counters = Object.keys(rules).map((name) => `counter ${name} {}`);
    const drops = Object.entries(rules).map(([name, match]) => `${match} counter name ${name} drop`);
    const chain = ['chain crossing {', 'type filter hook forward priority 0', ...drops, '}'];
    await network.nft(['-f', '-'], ['table bridge strict {', ...counters, ...chain, '}', ''].join('\n'));
    return network;
  }

  /** Frames that a rule has dropped so far. */
  async dropped(name: string): Promise<number> {
    const text = await this.nft(['list', 'counter', 'bridge', 'strict', name]);
    const packets = /packets (\d+)/.exec(text)?.[1];
    if (packets === undefined) {
      throw new ExternalError({ code: 'NFT', message: `nft shows no counter ${name}`, command: 'nft', log: [text] });
    }
    return Number(packets);
  }

  private async nft(args: readonly string[], input?: string): Promise<string> {
    const command = [`--net=/proc/${this.hub}/ns/net`, '--', 'nft', ...args];
    const { stdout } = await run('nsenter', command, input === undefined ? {} : { input });
    return stdout;
  }
}
