import { BugError } from '../../cli/errors.js';
import { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { projectFile } from '../../cli/system/project.js';
import { installProgram, startServer } from '../lab/c-program.js';
import { setSection } from '../lab/node-settings.js';
import type { Scrapes } from './scrape-result.js';

const FIRST_PORT = 2000;
const METRICS = 'http://127.0.0.1:7078/metrics';
/** One datagram to each port, so that each binding has packets that were counted; the first port's process answers. */
const ASK = `
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
first, last = int(sys.argv[2]), int(sys.argv[3])
for port in range(last, first - 1, -1):
    client.sendto(b"1", (sys.argv[1], port))
while client.recvfrom(64)[1][1] != first:
    pass
`;

export interface SceneOptions {
  readonly bindings: number;
  readonly onProgress: (line: string) => void;
  readonly signal: AbortSignal;
}

/**
 * A lab whose home has so many bindings: one of a process that has departed, the others made after its pattern, as a home makes
 * them that rebuilds its memory. For whoever scrapes the home that is the same, and does not take a quarter of an hour.
 */
export class ScrapeScene {
  private constructor(
    private readonly lab: Lab,
    private readonly options: SceneOptions,
  ) {}

  /** Nothing is left when it fails or is aborted. */
  static async up(options: SceneOptions): Promise<ScrapeScene> {
    const { signal, onProgress } = options;
    onProgress('building a lab');
    const lab = await Lab.up({ name: `bench-scrape-${process.pid}`, hosts: 1, daemons: false, signal });
    const scene = new ScrapeScene(lab, options);
    try {
      setSection(lab, 'home', 'portBlock', { ports: 0 }); // no machine has ports for a thousand blocks
      for (const node of ['home', 'host1']) await lab.startDaemon(node);
      await scene.depart();
      await scene.makeOthers();
      return scene;
    } catch (error) {
      await scene.down();
      throw error;
    }
  }

  async down(): Promise<void> {
    await Lab.down(this.lab.name);
  }

  /** @throws {BugError} when the page does not tell of all bindings and processes */
  async scrape(times: number): Promise<Scrapes> {
    const { signal, bindings, onProgress } = this.options;
    onProgress(`${times} scrapes`);
    const program = projectFile('dist/test/bench/scrape-get-main.js');
    const command = [process.execPath, program, METRICS, String(times)];
    const { stdout } = await this.home.run(command, { signal, timeoutMs: 30_000 + times * 5000 });
    const scrapes = JSON.parse(stdout) as Scrapes;
    if (scrapes.bindings !== bindings || scrapes.departed !== bindings) {
      throw new BugError(
        `the page tells of ${scrapes.bindings} bindings and ${scrapes.departed} processes that are away`,
      );
    }
    return scrapes;
  }

  private get home(): LabNode {
    return this.lab.node('home');
  }

  private async depart(): Promise<void> {
    const program = await installProgram('datagrams', this.home, this.lab.node('host1'));
    const pid = await startServer(this.home, [program, '0.0.0.0', String(FIRST_PORT)], FIRST_PORT);
    const socket = this.home.path('/run/homeproxy/control.sock');
    await streamControl(socket, migrateMethod, { pid, to: 'host1' }, () => undefined);
  }

  private async makeOthers(): Promise<void> {
    const { signal, bindings, onProgress } = this.options;
    onProgress(`making ${bindings} bindings`);
    await this.lab.stopDaemon('home');
    const program = projectFile('dist/test/bench/make-bindings-main.js');
    await this.home.run([process.execPath, program, String(bindings - 1)], { signal, timeoutMs: 300_000 });
    await this.lab.startDaemon('home');
    const ports = [FIRST_PORT, FIRST_PORT + bindings - 1].map(String);
    const asked = ['python3', '-c', ASK, this.home.address, ...ports];
    await this.lab.node('client').run(asked, { signal, timeoutMs: 60_000 });
  }
}
