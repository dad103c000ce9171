import { readFileSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { NodeCommand } from './node-command.js';
import { type Frame, readPcap } from './pcap.js';

const FILE = '/tmp/capture.pcap';
/** Ethernet header, VLAN tag and IP packet. */
const LONGEST = 18 + 65_535;
/** What tcpdump says when it is asked; at its end it says it in lines. */
const COUNTS =
  /^tcpdump: (\d+) packets? captured, (\d+) packets? received by filter, (\d+) packets? dropped by kernel/gm;

/** tcpdump on a node's interface: everything that it sends and receives, whole. */
export class Capture {
  private constructor(
    private readonly node: LabNode,
    private readonly command: NodeCommand,
  ) {}

  static async start(node: LabNode): Promise<Capture> {
    const buffer = String(128 << 10); // KiB
    // Immediately: else what came in the last second before the end is still in the kernel and missing from the file. Then each
    // packet has a slot of the longest one's size (TPACKET_V2): 1,900 that hold a super-packet, where tcpdump would make 500.
    const how = ['--immediate-mode', '-Z', 'root', '-i', 'eth0', '-s', String(LONGEST), '-B', buffer, '-w', FILE];
    const command = new NodeCommand(node, ['tcpdump', ...how]);
    await command.printed(/listening on/);
    return new Capture(node, command);
  }

  /** Ends the capture and returns its frames, all that passed until now. @throws {Error} when tcpdump missed one */
  async stop(): Promise<Frame[]> {
    await this.caughtUp();
    this.command.kill('SIGINT');
    const { status, stderr } = await this.command.ended;
    if (status !== 0 || !/^0 packets dropped by kernel$/m.test(stderr)) throw new Error(`tcpdump: ${stderr}`);
    return readPcap(readFileSync(this.node.path(FILE)));
  }

  /** SIGINT ends tcpdump before it has read what is still in the kernel's buffer; SIGUSR1 lets it say how far it is. */
  private async caughtUp(): Promise<void> {
    const counts = (): number[][] =>
      [...this.command.stderr.matchAll(COUNTS)].map((found) => found.slice(1).map(Number));
    for (let asked = 1; ; asked++) {
      this.command.kill('SIGUSR1');
      if (!(await this.command.printedOrEnded(() => counts().length >= asked))) return; // `stop` hears why
      const [, wanted = 0] = counts()[0] ?? [];
      const [written = 0, , dropped = 0] = counts().at(-1) ?? [];
      if (written + dropped >= wanted) return;
      await turn();
    }
  }
}

/** The MAC address of a node's eth0. */
export async function macOf(node: LabNode): Promise<string> {
  return (await node.run(['cat', '/sys/class/net/eth0/address'])).stdout.trim();
}
