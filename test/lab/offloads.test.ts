import * as assert from 'uvu/assert';
import type { Lab } from '../../cli/lab/lab.js';
import { suite } from '../suite.js';
import { bareLab, downAll, homeproxy } from './lab-fixture.js';
import { NodeCommand } from './node-command.js';

const PORT = 9000;
const BYTES = 20_000_000;
const FULL_FRAME = 1514;

const links = suite('the links of a lab');
links.after(downAll);

/** Bytes per frame that home received while the client sent it a bulk of data. */
async function meanFrame(lab: Lab): Promise<number> {
  const home = lab.node('home');
  const receive = `let n=0; require('net').createServer((s) => s.on('data', (d) => { n += d.length })
    .on('end', () => { console.log('got', n); process.exit() })).listen(${PORT}, () => console.log('listening'))`;
  const send = `require('net').connect(${PORT}, '${home.address}').end(Buffer.alloc(${BYTES}))`;
  const server = new NodeCommand(home, [process.execPath, '-e', receive]);
  await server.printed(/listening/);
  const before = await received(lab);
  await lab.node('client').run([process.execPath, '-e', send]);
  assert.match((await server.ended).stdout, `got ${BYTES}`);
  const after = await received(lab);
  return (after.bytes - before.bytes) / (after.packets - before.packets);
}

async function received(lab: Lab): Promise<{ bytes: number; packets: number }> {
  const { stdout } = await lab.node('home').run(['ip', '-j', '-s', 'link', 'show', 'dev', 'eth0']);
  const [link] = JSON.parse(stdout) as { stats64: { rx: { bytes: number; packets: number } } }[];
  if (link === undefined) throw new Error('home has no eth0');
  return link.stats64.rx;
}

links('carry whole super-packets with offloads', async () => {
  const mean = await meanFrame(await bareLab('offloads', { hosts: 1, offloads: true }));
  assert.ok(mean > 2 * FULL_FRAME, `${mean} bytes per frame`);
});

links('carry nothing longer than their MTU without: native XDP would forward what no device has finished', async () => {
  const mean = await meanFrame(await bareLab('no-offloads', { hosts: 1 }));
  assert.ok(mean <= FULL_FRAME, `${mean} bytes per frame`);
});

links('are refused with offloads under native XDP', async () => {
  const { status, stdout } = await homeproxy(['lab', 'up', '--offloads', '--lab', 'test-never-built', '--json']);
  assert.is(status, 2);
  assert.is(JSON.parse(stdout).error.code, 'LAB_OFFLOADS');
});

links.run();
