// limit: 180 s
/** A node with a good certificate that means harm, or is broken: what it says is refused, and nobody else notices. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { readText } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import type { Knowledge } from './hostile-requests.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { startProgram } from './node-command.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { describe, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

/** Another one, and more rounds, look further: the same run finds the same. */
const SEED = Number(process.env.HOMEPROXY_SEED ?? 20_261_122);
/** Requests of each of the two dozen methods, to each node. */
const ROUNDS = Number(process.env.HOMEPROXY_ROUNDS ?? 20);
/** What a daemon may keep of all that, in bytes: caches, code that was compiled, and garbage that is not collected yet. */
const KEPT_BYTES = 96 << 20;

/** Random bytes for whatever listens: garbage.py <seed> <address or path>...; ports, and the protocols of tunnels, where it is an address. */
const GARBAGE = `
import random, socket, sys
some = random.Random(int(sys.argv[1]))
def say(family, kind, protocol, target, most, times):
    for _ in range(times):
        with socket.socket(family, kind, protocol) as end:
            end.settimeout(5)
            try:
                end.connect(target)
                end.sendall(some.randbytes(some.randrange(most) + 1))
            except OSError:
                pass
for target in sys.argv[2:]:
    if target.startswith("/"):
        say(socket.AF_UNIX, socket.SOCK_STREAM, 0, target, 100000, 20)
        continue
    for port in (7077, 7078):
        say(socket.AF_INET, socket.SOCK_STREAM, 0, (target, port), 100000, 20)
    say(socket.AF_INET, socket.SOCK_DGRAM, 0, (target, 6080), 1400, 200)
    for protocol in (socket.IPPROTO_IPIP, socket.IPPROTO_IPV6):
        say(socket.AF_INET, socket.SOCK_RAW, protocol, (target, 0), 1400, 200)
`;

const test = suite(`a hostile peer (HOMEPROXY_SEED=${SEED})`);
let scenario: Scenario;
let redis: Redis;

test.before(async () => {
  scenario = await Scenario.start('hostile', { hosts: 2 });
  redis = await startRedis(scenario.home);
  await scenario.lab.stopDaemon('host2');
});
test.after(downAll);

async function memoryOf(node: string): Promise<number> {
  const status = readText(`/proc/${await scenario.daemonPid(node)}/status`) ?? '';
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) * 1024;
}

/** The names by which nodes speak of a home's processes: found in its journal, where a thief would. */
function twinsIn(node: LabNode): string[] {
  const folder = node.path('/var/lib/homeproxy');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8', withFileTypes: true }).filter((file) =>
    file.isFile(),
  );
  const text = files.map(({ parentPath, name }) => readFileSync(join(parentPath, name), 'latin1')).join('\n');
  return [...new Set(text.match(/home-[0-9]+-[0-9a-f]{6}/g))];
}

test('is refused, with words and never as a bug, and its garbage on every port, while everybody else is served', async () => {
  const { home, client, lab } = scenario;
  const load = await Load.start(client, home.address, { paceMs: 10, graceMs: 20_000 });
  const { migration } = await scenario.migrate(redis.pid, 'host1');
  const [row] = await scenario.ps('home');
  const nodes = ['home', 'host1'];
  const before = await Promise.all(nodes.map((node) => scenario.daemonPid(node)));
  const memory = await Promise.all(nodes.map(memoryOf));
  const knowledge: Knowledge = {
    migrations: [migration],
    twins: twinsIn(home),
    words: [...nodes, 'host2', 'host2', 'host2', lab.node('host2').address, '/usr/bin/redis-server'],
    numbers: [REDIS_PORT, redis.pid, row?.epoch ?? 0, (row?.epoch ?? 0) + 1],
  };
  assert.is.not(knowledge.twins.length, 0);
  const targets = nodes.map((node) => `${node}=${lab.node(node).address}`);
  const args = [String(SEED), String(ROUNDS), JSON.stringify(knowledge), ...targets];
  const outcome = await startProgram(lab.node('host2'), 'test/lab/hostile-peer-main.js', args).ended;
  assert.is(outcome.status, 0, describe(outcome));
  const { answers, bugs } = JSON.parse(outcome.stdout) as { answers: Record<string, number>; bugs: string[] };
  console.log(
    `  ${Object.entries(answers)
      .map(([code, times]) => `${code} ${times}`)
      .join(', ')}`,
  );
  const garbage = ['python3', '-c', GARBAGE, String(SEED)];
  await lab.node('host2').run([...garbage, ...nodes.map((node) => lab.node(node).address)]);
  await home.run([...garbage, '127.0.0.1', '/run/homeproxy/control.sock']);
  assert.equal(bugs, []);
  for (const code of ['REQUEST_INVALID', 'NOT_YOURS', 'NOT_EXPECTED']) assert.ok((answers[code] ?? 0) > 0, code);
  assert.not.ok('HOST_UNREACHABLE' in answers, 'every daemon answered to the end');
  assert.equal(await Promise.all(nodes.map((node) => scenario.daemonPid(node))), before);
  const grown = (await Promise.all(nodes.map(memoryOf))).map((bytes, index) => bytes - (memory[index] ?? 0));
  for (const bytes of grown) assert.ok(bytes < KEPT_BYTES, `a daemon has grown by ${bytes >> 20} MiB`);
  const [after] = await scenario.ps('home');
  assert.equal({ ...after, counters: {} }, { ...row, counters: {} });
  await scenario.recall(redis.pid);
  assert.equal(faultsOf(await load.stop()), NO_FAULTS);
});

test('and leaves nothing behind', async () => {
  const { host2: _down, ...expected } = scenario.untouched;
  assert.equal(await settledTraces(scenario.lab, expected), expected);
});

test.run();
