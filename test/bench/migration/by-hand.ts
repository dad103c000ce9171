import { setTimeout as sleep } from 'node:timers/promises';
import type { LabNode } from '../../../cli/lab/lab-node.js';
import { NodeCommand } from '../../lab/node-command.js';
import type { Asking } from './asking.js';
import type { Case } from './cases.js';
import { listening, type Scene } from './scene.js';

/** The address of the process, which moves along. */
const ADDRESS = '10.77.0.200';
const PORT = 7402;
/** Where the images are, at both ends. */
export const IMAGES = '/run/plain-images';
export const LIMIT_MS = 180_000;
const REST_MS = 300;
const SEEN_MS = 200;

/** A tool that stops a process into files and makes it run again from them, and one process for it. */
export interface ByHand {
  /** Starts the process at home. @returns its client */
  start(scene: Scene, what: Case, address: string): Promise<Asking>;
  /** Stops it, with its images in `IMAGES`. */
  dump(home: LabNode): Promise<void>;
  restore(host: LabNode): Promise<void>;
  /** Nothing of it and its client is left, wherever it is by now. */
  end(scene: Scene, where: LabNode): Promise<void>;
}

export interface ByHandSample {
  /** From the start of the dump until the restored process has its address. */
  readonly downMs: number;
  readonly stallMs: number;
}

/**
 * What somebody would write without homeproxy, in a lab without its daemons: the tool's dump, the images through `tar` over the
 * fastest way there is, the tool's restore, and the address that moves along.
 * @throws {ExternalError} `COMMAND_FAILED`: what the tool does not bear
 */
export async function moveByHand(scene: Scene, what: Case, tool: ByHand): Promise<ByHandSample> {
  const { home, host, lab } = scene;
  const client = lab.node('client');
  await home.run(['ip', 'address', 'replace', `${ADDRESS}/24`, 'dev', 'eth0']);
  let where = home;
  try {
    const asking = await tool.start(scene, what, ADDRESS);
    await sleep(REST_MS);
    for (const node of [home, host]) await node.run(['mkdir', '-p', IMAGES]);
    const take = `${scene.rawTcp} receive ${PORT} | tar -C ${IMAGES} -x`;
    const receiver = new NodeCommand(host, ['sh', '-c', take]);
    receiver.finishInput();
    await listening(host, PORT);
    const station = (await host.run(['cat', '/sys/class/net/eth0/address'])).stdout.trim();
    await asking.mark();
    const began = performance.now();
    await tool.dump(home);
    where = host;
    await home.run(['ip', 'address', 'delete', `${ADDRESS}/24`, 'dev', 'eth0']);
    const send = `tar -C ${IMAGES} -c . | ${scene.rawTcp} send ${host.address} ${PORT} -`;
    await home.run(['sh', '-c', send], { timeoutMs: LIMIT_MS });
    await receiver.ended;
    await host.run(['ip', 'address', 'add', `${ADDRESS}/32`, 'dev', 'lo']); // nobody is sent here before it is restored
    await tool.restore(host);
    await client.run(['ip', 'neighbour', 'replace', ADDRESS, 'lladdr', station, 'dev', 'eth0']);
    const downMs = performance.now() - began;
    await asking.all();
    await sleep(SEEN_MS);
    return { downMs, stallMs: await asking.longest() };
  } finally {
    await tool.end(scene, where).catch(() => undefined); // it may have been lost
    await host.run(['sh', '-c', `ip address delete ${ADDRESS}/32 dev lo; rm -rf ${IMAGES}`]).catch(() => undefined);
    await home.run(['sh', '-c', `rm -rf ${IMAGES}; nft flush ruleset`]).catch(() => undefined);
    await client.run(['ip', 'neighbour', 'delete', ADDRESS, 'dev', 'eth0']).catch(() => undefined);
  }
}
