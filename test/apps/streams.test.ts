// limit: 240 s

import * as assert from 'uvu/assert';
import { downAll } from '../lab/lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from '../lab/load.js';
import { killQuietly } from '../lab/node-command.js';
import { startRedis } from '../lab/redis.js';
import { settledTraces } from '../lab/traces.js';
import { suite } from '../suite.js';
import { AppScene, tell } from './app-scene.js';
import { Clients } from './clients.js';
import type { StreamResult } from './stream.js';

const LISTENERS = 20;

const test = suite('streams: audio to listeners who stay, and pipelined requests to Redis');
let scene: AppScene;

test.before(async () => {
  scene = await AppScene.start('streams');
});
test.after(downAll);

test('Icecast: listeners get every frame of the stream once and in order, and its source is never cut off', async () => {
  const { home, client } = scene.scenario;
  for (const folder of ['/var/log/icecast', '/var/icecast/web', '/var/icecast/admin']) scene.installFolder(folder);
  scene.install(
    '/etc/icecast2/lab.xml',
    `
<icecast>
  <limits><clients>100</clients><sources>2</sources><queue-size>524288</queue-size><burst-size>65535</burst-size></limits>
  <authentication>
    <source-password>lab</source-password><relay-password>lab</relay-password>
    <admin-user>admin</admin-user><admin-password>lab</admin-password>
  </authentication>
  <hostname>lab</hostname>
  <listen-socket><port>8000</port></listen-socket>
  <paths>
    <basedir>/var/icecast</basedir>
    <logdir>/var/log/icecast</logdir><webroot>/var/icecast/web</webroot><adminroot>/var/icecast/admin</adminroot>
  </paths>
  <logging><accesslog>-</accesslog><errorlog>-</errorlog><loglevel>2</loglevel></logging>
  <security><chroot>0</chroot><changeowner><user>nobody</user><group>nogroup</group></changeowner></security>
</icecast>
`,
  );
  const command = ['icecast2', '-c', '/etc/icecast2/lab.xml'];
  const pid = await scene.serve(8000, command, scene.programs.leavingRoot);
  const options = { host: home.address, port: 8000, mount: '/live', password: 'lab', listeners: LISTENERS };
  const clients = await Clients.start<StreamResult>(client, 'test/apps/stream-main.js', options);
  const moves = await scene.tour(pid, 'icecast2', { goesOn: (replies) => clients.goesOn(replies * LISTENERS) });
  const { sent, heard, faults } = await clients.stop();
  tell('icecast2', moves, `${sent} frames fed, ${heard} heard by ${LISTENERS} listeners`);
  assert.equal(faults, []);
  assert.ok(sent > 100, `only ${sent} frames`);
  killQuietly(home.machinePid(pid) ?? 0, 'SIGTERM');
});

test('Redis with 50 connections, each with eight requests under way', async () => {
  const { home, client } = scene.scenario;
  const { pid } = await startRedis(home);
  const load = await Load.start(client, home.address, { connections: 50, inFlight: 8, paceMs: 10 });
  const goesOn = async (): Promise<void> => {
    const { replies } = load.progress;
    while (load.progress.replies < replies + 100) await load.nextSecond();
  };
  const moves = await scene.tour(pid, 'redis-server', { goesOn });
  const result = await load.stop();
  tell('redis-server', moves, `${result.replies} replies checked`);
  assert.equal(faultsOf(result), NO_FAULTS);
  killQuietly(home.machinePid(pid) ?? 0, 'SIGTERM');
});

test('and nothing is left over on any node', async () => {
  const { lab, untouched } = scene.scenario;
  assert.equal(await settledTraces(lab, untouched), untouched);
});

test.run();
