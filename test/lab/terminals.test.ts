// limit: 240 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { describe, errorOf, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const SOCKET = '/run/editing';
const NOTES = '/run/notes';

const test = suite('a tmux session with an editor in it');
let scenario: Scenario;
let server: number;
const lines = ['line 1, written at home'];

test.before(async () => {
  scenario = await Scenario.start('terminals');
  // Somebody sits at a terminal on each node: the first numbers are taken there, and the tree's is free only at home.
  for (const host of ['host1', 'host2']) await terminal(host, 'sleep 4242');
  await tmux('home', '-f', '/dev/null', 'new-session', '-d', '-x', '60', '-y', '12', 'vim.tiny -n -u NONE');
  server = Number((await tmux('home', 'display-message', '-p', '#{pid}')).trim());
});
test.after(downAll);

/** A client of the session's server, on a node: it comes by the server's unix socket. */
async function tmux(node: string, ...args: string[]): Promise<string> {
  return (await scenario.lab.node(node).run(['tmux', '-S', SOCKET, ...args])).stdout;
}

/** Starts a command on a terminal of its own, whose master `script` holds. @returns the pid of `script` in the node */
async function terminal(node: string, command: string): Promise<number> {
  return await scenario.lab.node(node).detach(['script', '-qfc', command, '/dev/null']);
}

async function screen(node: string): Promise<string> {
  return await tmux(node, 'capture-pane', '-p');
}

/** Waits until the editor shows a text. */
async function shows(node: string, text: string): Promise<void> {
  for (const deadline = Date.now() + 10_000; ; await sleep(20)) {
    const shown = await screen(node);
    if (shown.includes(text)) return;
    if (Date.now() > deadline) throw new Error(`no "${text}" on the screen:\n${shown}`);
  }
}

/** Types a line into the editor and saves all of it to the node's own file (its nodes share none). */
async function writeLine(node: string, line: string): Promise<void> {
  await tmux(node, 'send-keys', `o${line}`, 'Escape', `:w! ${NOTES}-${node}`, 'Enter');
  await shows(node, line);
  for (const deadline = Date.now() + 10_000; (await notes(node)).at(-1) !== line; await sleep(20)) {
    if (Date.now() > deadline) throw new Error(`the file does not end with "${line}": ${await notes(node)}`);
  }
}

async function notes(node: string): Promise<string[]> {
  const { stdout } = await scenario.lab.node(node).run(['sh', '-c', `cat ${NOTES}-${node} || :`]);
  return stdout.split('\n').filter((line) => line !== '');
}

test('is edited at home', async () => {
  await shows('home', '~');
  await writeLine('home', lines[0] ?? '');
  assert.equal(await notes('home'), lines);
});

for (const to of ['host1', 'host2', 'home']) {
  test(`move to ${to}: the session has its screen and its terminal, and goes on editing`, async () => {
    if (to === 'home') await scenario.recall(server);
    else await scenario.migrate(server, to);
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    assert.equal([...placesOf(scenario.lab, 'tmux'), ...placesOf(scenario.lab, 'vim.tiny')], [place, place]);
    for (const line of lines) await shows(to, line);
    lines.push(`line ${lines.length + 1}, written at ${to}`);
    await writeLine(to, lines.at(-1) ?? '');
    assert.equal(await notes(to), lines);
    assert.is((await tmux(to, 'display-message', '-p', '#{pane_tty}')).trim(), '/dev/pts/0');
  });
}

test('one whose terminal somebody at home has taken meanwhile stays away, whole, until it is free again', async () => {
  await scenario.migrate(server, 'host1');
  const stranger = await terminal('home', 'sleep 4242');
  const outcome = await scenario.homeproxy('home', ['recall', String(server), '--json']);
  assert.is(outcome.status, 3, describe(outcome));
  const { message, remedy } = errorOf(outcome);
  assert.match(message, /\/dev\/pts\/0: at home .*\((script|sleep)\).*TERMINAL_TAKEN/);
  assert.match(remedy ?? '', /log out/);
  await writeLine('host1', 'written while it had to wait');
  await scenario.home.run(['kill', String(stranger)]);
  while (true) {
    const left = await scenario.home.run(['sh', '-c', 'ls /dev/pts']);
    if (!left.stdout.split('\n').includes('0')) break;
    await sleep(20);
  }
  await scenario.recall(server);
  await shows('home', 'written while it had to wait');
});

test('and nothing is left over on any node', async () => {
  await tmux('home', 'kill-server');
  for (const host of ['host1', 'host2']) await scenario.lab.node(host).run(['pkill', 'script']);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
