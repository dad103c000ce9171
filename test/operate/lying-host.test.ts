// limit: 400 s
/** A host with a good certificate that lies: about its verdicts, about what has arrived, about a process that is with it. */
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { HomeproxyError } from '../../cli/errors.js';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { startServer } from '../lab/c-program.js';
import { placesOf } from '../lab/copies.js';
import { bareLab, downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { type NodeCommand, startProgram } from '../lab/node-command.js';
import { setSection } from '../lab/node-settings.js';
import { describe, Scenario } from '../lab/scenario.js';
import { SocketAgent } from '../lab/socket-agent.js';
import { askTicker, installTicker, TICKER } from '../lab/ticker.js';
import { suite } from '../suite.js';

/** Another one, and more rounds, look further: the same run tells the same lies. */
const SEED = Number(process.env.HOMEPROXY_SEED ?? 20_261_122);
const ROUNDS = Number(process.env.HOMEPROXY_ROUNDS ?? 40);
/** Short, for the liar likes to keep silent. */
const TIMEOUTS = { connectMs: 1000, prepareMs: 3000, transferMs: 3000, restoreMs: 2000, commitMs: 1000 };
const PORT = 7500;
const OTHERS_PORT = 7501;

const test = suite(`a lying host (HOMEPROXY_SEED=${SEED})`);
let scenario: Scenario;
let pid: number;
let conversation: LineClient;
/** With a server of the home that never moves. */
let other: LineClient;
let daemon: number;

test.before(async () => {
  const lab = await bareLab('lying', { hosts: 2 });
  setSection(lab, 'home', 'timeouts', TIMEOUTS);
  scenario = await Scenario.start('lying', { hosts: 2 });
  const { home, client } = scenario;
  await installTicker(home, lab.node('host1'), lab.node('host2'));
  pid = await startServer(home, [TICKER, String(PORT)], PORT);
  await startServer(home, ['env', 'NAME=other', '/run/ticker', String(OTHERS_PORT)], OTHERS_PORT);
  conversation = await LineClient.connect(client, home.address, PORT);
  other = await LineClient.connect(client, home.address, OTHERS_PORT);
  daemon = await scenario.daemonPid('home');
});
test.after(async () => {
  await conversation?.close();
  await other?.close();
  await downAll();
});

/** Puts a liar in the place of host1's daemon. */
async function startLiar(): Promise<NodeCommand> {
  const { lab, home } = scenario;
  await lab.stopDaemon('host1');
  const port = { protocol: 'tcp', address: home.address, port: OTHERS_PORT };
  const coveted = [
    { ...port, exclusive: true },
    { ...port, address: `::ffff:${home.address}`, exclusive: false },
  ];
  const words = ['home', 'host1', 'host2', home.address, lab.node('host2').address];
  const knowledge = { migrations: [], twins: [], words, numbers: [pid, PORT, OTHERS_PORT], coveted };
  const args = [String(SEED), JSON.stringify(knowledge)];
  const liar = startProgram(lab.node('host1'), 'test/operate/lying-host-main.js', args);
  await liar.printed(/listening/);
  return liar;
}

/** @returns how often each of its methods was called */
async function endLiar(liar: NodeCommand): Promise<Record<string, number>> {
  liar.kill('SIGTERM');
  const outcome = await liar.ended;
  await scenario.lab.startDaemon('host1');
  return JSON.parse(outcome.stdout) as Record<string, number>;
}

/** Moves the process again and again. None may succeed, and none fail by a bug of the home. */
async function movesIn(rounds: number, to: string): Promise<void> {
  const socket = scenario.home.path('/run/homeproxy/control.sock');
  for (let round = 0; round < rounds; round++) {
    try {
      await streamControl(socket, migrateMethod, { pid, to }, () => undefined);
      assert.unreachable(`round ${round}: the move is said to have succeeded`);
    } catch (error) {
      if (!(error instanceof HomeproxyError)) throw error;
      const ours = error.kind === 'bug' && !error.message.startsWith('host1: ');
      assert.not.ok(ours, `round ${round}: ${error.code} ${error.message}`);
    }
    assert.ok((await askTicker(conversation)).awakenings > 0);
    assert.ok((await askTicker(other)).awakenings > 0);
  }
  await scenario.settled('home');
  assert.is(await scenario.daemonPid('home'), daemon);
}

function bugsIn(node: string): string[] {
  const lines = readFileSync(scenario.lab.node(node).path(DAEMON_LOG), 'utf8').split('\n');
  return lines.filter((line) => /"level":[56]0/.test(line) && !line.includes('"message":"host1: ')); // its own, it says
}

test('gets nobody to freeze a process for good, nor to take its word for a copy that is none', async () => {
  const liar = await startLiar();
  await movesIn(ROUNDS, 'host1');
  const asked = await endLiar(liar);
  for (const method of [
    'destination-assess',
    'destination-prepare',
    'images',
    'destination-restore',
    'destination-commit',
  ]) {
    assert.ok((asked[method] ?? 0) > 0, `${method} was never reached: ${JSON.stringify(asked)}`);
  }
  assert.equal(placesOf(scenario.lab, TICKER), ['home', 'home']);
  assert.equal(bugsIn('home'), []);
});

test('puts no escape sequences on the terminal of who asks about it', async () => {
  const liar = await startLiar();
  let said = '';
  for (const words of [
    ['check', String(pid), 'host1'],
    ['migrate', String(pid), 'host1'],
    ['hosts'],
    ['drain', 'host1'],
    ['journal'],
  ]) {
    for (let times = 0; times < 3; times++) {
      const outcome = await scenario.homeproxy('home', words);
      assert.not.match(outcome.stdout + outcome.stderr, /[^\P{C}\n]/u, describe(outcome));
      said += outcome.stdout + outcome.stderr;
    }
  }
  assert.match(said, /said by a liar \?\]0;mine\?\?\[2J\?/);
  await endLiar(liar);
});

test('with the process gets no other port of its home, whatever it says that the process has', async () => {
  await scenario.migrate(pid, 'host1');
  const liar = await startLiar();
  await movesIn(ROUNDS / 2, 'host2');
  const asked = await endLiar(liar);
  for (const method of ['source-inspect', 'source-drain', 'source-transfer']) {
    assert.ok((asked[method] ?? 0) > 0, `${method} was never reached: ${JSON.stringify(asked)}`);
  }
  assert.equal(bugsIn('home'), []);
  await scenario.recall(pid);
  assert.ok((await askTicker(conversation)).awakenings > 0);
  assert.ok((await askTicker(other)).awakenings > 0);
});

test('nor does a guest that listens, in its pod, on a port that another process of its home has', async () => {
  const agent = await SocketAgent.serve(scenario.home, scenario.client, PORT + 2);
  await scenario.migrate(agent.pid, 'host1');
  await agent.do('listen', 'taken', '0.0.0.0', OTHERS_PORT);
  await scenario.migrate(agent.pid, 'host2');
  assert.ok((await askTicker(other)).awakenings > 0, 'packets of a process that stays go to it');
});

test.run();
