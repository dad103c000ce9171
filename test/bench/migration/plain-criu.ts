import { setTimeout as sleep } from 'node:timers/promises';
import { findCriu } from '../../../cli/checkpoint/criu.js';
import { NodeCommand } from '../../lab/node-command.js';
import type { Case } from './cases.js';
import { listening, type Scene } from './scene.js';

const ADDRESS = '10.77.0.200';
const PORT = 7402;
const IMAGES = '/run/plain-images';
const LIMIT_MS = 180_000;
/** Its pid must be free where it is restored. */
const FIRST_PID = 10_000;
const REST_MS = 300;
const SEEN_MS = 200;

export interface PlainSample {
  /** From the start of the dump until the restored process has its address. */
  readonly downMs: number;
  readonly stallMs: number;
}

/**
 * What somebody would write without homeproxy, in a lab without its daemons: `criu dump`, with CRIU's own lock on the connections,
 * the images through `tar` over the fastest way there is, `criu restore`, and the address that moves along. A process of its
 * own for each run.
 * @throws {ExternalError} `COMMAND_FAILED`: CRIU's own locks do not bear many connections
 */
export async function movePlainly(scene: Scene, what: Case, run: number): Promise<PlainSample> {
  const { home, host, lab } = scene;
  const client = lab.node('client');
  const criu = findCriu('auto');
  const locks = ['--tcp-established', '--network-lock', 'nftables', '--file-locks'];
  const images = ['-D', IMAGES];
  await home.run(['ip', 'address', 'replace', `${ADDRESS}/24`, 'dev', 'eth0']);
  await home.run(['sh', '-c', `echo ${FIRST_PID + 100 * run} >/proc/sys/kernel/ns_last_pid`]);
  const subject = await scene.start(what, ADDRESS);
  let where = home;
  try {
    await scene.warm(what.memoryMB);
    await sleep(REST_MS);
    for (const node of [home, host]) await node.run(['mkdir', '-p', IMAGES]);
    const take = `${scene.rawTcp} receive ${PORT} | tar -C ${IMAGES} -x`;
    const receiver = new NodeCommand(host, ['sh', '-c', take]);
    receiver.finishInput();
    await listening(host, PORT);
    const station = (await host.run(['cat', '/sys/class/net/eth0/address'])).stdout.trim();
    await subject.asking.mark();
    const began = performance.now();
    await home.run([criu, 'dump', '-t', String(subject.pid), ...images, '-o', 'dump.log', ...locks], {
      timeoutMs: LIMIT_MS,
    });
    where = host;
    await home.run(['ip', 'address', 'delete', `${ADDRESS}/24`, 'dev', 'eth0']);
    const send = `tar -C ${IMAGES} -c . | ${scene.rawTcp} send ${host.address} ${PORT} -`;
    await home.run(['sh', '-c', send], { timeoutMs: LIMIT_MS });
    await receiver.ended;
    await host.run(['ip', 'address', 'add', `${ADDRESS}/32`, 'dev', 'lo']); // nobody is sent here before it is restored
    await host.run([criu, 'restore', '-d', ...images, '-o', 'restore.log', ...locks], { timeoutMs: LIMIT_MS });
    await client.run(['ip', 'neighbour', 'replace', ADDRESS, 'lladdr', station, 'dev', 'eth0']);
    const downMs = performance.now() - began;
    await subject.asking.all();
    await sleep(SEEN_MS);
    return { downMs, stallMs: await subject.asking.longest() };
  } finally {
    await scene.end(subject, where).catch(() => undefined); // it may have been lost
    await host.run(['sh', '-c', `ip address delete ${ADDRESS}/32 dev lo; rm -rf ${IMAGES}`]).catch(() => undefined);
    await home.run(['sh', '-c', `rm -rf ${IMAGES}; nft flush ruleset`]).catch(() => undefined);
    await client.run(['ip', 'neighbour', 'delete', ADDRESS, 'dev', 'eth0']).catch(() => undefined);
  }
}
