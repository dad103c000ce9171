import { type ChildProcess, spawn } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import * as assert from 'uvu/assert';
import { type AskHost, HostBook } from '../../cli/policy/host-book.js';
import { HostReader, parseMemory, parsePressure } from '../../cli/policy/host-reader.js';
import { ProcessReader } from '../../cli/policy/process-reader.js';
import { queryPrometheus } from '../../cli/policy/prometheus.js';
import { suite } from '../suite.js';
import { policies } from './policy-fixtures.js';

const host = suite('what a node reads of itself for policies');

host('load, memory, pressure and the file systems that policies name', async () => {
  const facts = await new HostReader(() => true).read(['/proc', '/', '/no/such/path']);
  assert.ok((facts.cpus ?? 0) >= 1);
  assert.ok((facts.load1 ?? -1) >= 0);
  const { totalBytes = 0, availableBytes = 0 } = facts.memory ?? {};
  assert.ok(availableBytes > 0 && availableBytes < totalBytes, `${availableBytes} of ${totalBytes}`);
  assert.equal(Object.keys(facts.disks).sort(), ['/', '/proc']);
  const { freeBytes = 0, totalBytes: size = 0 } = facts.disks['/'] ?? {};
  assert.ok(freeBytes > 0 && freeBytes <= size);
  assert.is(facts.draining, true);
});

host('reads the texts of the kernel, and nothing into other texts', () => {
  const text = 'some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=3\n';
  assert.equal(parsePressure(text), { some: { avg10: 1.5, avg60: 0.25 }, full: { avg10: 0.1, avg60: 0 } });
  assert.equal(parsePressure(`${text.split('\n')[0]}\n`), {
    some: { avg10: 1.5, avg60: 0.25 },
    full: { avg10: 0, avg60: 0 },
  });
  assert.is(parsePressure(''), undefined);
  assert.equal(parseMemory('MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   50 kB\n'), {
    totalBytes: 102_400,
    availableBytes: 51_200,
  });
  assert.is(parseMemory('MemTotal: 100 kB\n'), undefined);
});

host('who asks twice at the same time gets the same answer', async () => {
  const reader = new HostReader(() => false);
  const [one, two] = await Promise.all([reader.read(['/']), reader.read(['/'])]);
  assert.equal(Object.keys(one.disks), ['/']);
  assert.equal(two.disks, one.disks);
});

host('a node that fails is unreachable, one that does not answer keeps nobody waiting twice', async () => {
  let answer: (facts: { draining: boolean; disks: Record<string, never> }) => void = () => undefined;
  let asked = 0;
  const book = new HostBook(
    new Map<string, AskHost>([
      ['home', async () => ({ draining: false, disks: {} })],
      ['host1', async () => Promise.reject(new Error('down'))],
      [
        'host2',
        () => {
          asked++;
          return new Promise((resolve) => {
            answer = resolve;
          });
        },
      ],
    ]),
  );
  const first = book.refresh([]);
  await book.refresh([]); // the one that host2 holds up is not waited for
  assert.is(asked, 1);
  assert.equal(Object.keys(book.states()), ['home', 'host1']);
  assert.is(book.states().host1?.reachable, false);
  answer({ draining: true, disks: {} });
  await first;
  assert.is(book.states().host2?.facts?.draining, true);
});

host.run();

const prometheus = suite<{ server: Server; url: string; say(status: number, body: string): void; asked: string[] }>(
  'the answer of a Prometheus server',
);

prometheus.before.each(async (world) => {
  let answer: [number, string] | undefined;
  world.asked = [];
  world.say = (status, body) => {
    answer = [status, body];
  };
  world.server = createServer((request, response) => {
    world.asked.push(request.url ?? '');
    if (answer === undefined) return; // it never answers
    response.writeHead(answer[0], answer[0] === 302 ? { location: 'http://127.0.0.1:1/' } : {}).end(answer[1]);
  });
  await new Promise<void>((resolve) => world.server.listen(0, '127.0.0.1', resolve));
  world.url = `http://127.0.0.1:${(world.server.address() as AddressInfo).port}/prefix/`;
});
prometheus.after.each(async ({ server }) => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const vector = (...values: string[]) =>
  JSON.stringify({
    status: 'success',
    data: { resultType: 'vector', result: values.map((value) => ({ metric: {}, value: [1.5, value] })) },
  });

for (const [what, status, body, expected] of [
  ['a vector', 200, vector('1', '2.5'), { values: [1, 2.5] }],
  ['an empty vector', 200, vector(), { values: [] }],
  ['what is no number', 200, vector('NaN', '+Inf', '3'), { values: [3] }],
  ['a scalar', 200, '{"status":"success","data":{"resultType":"scalar","result":[1,"4"]}}', { values: [4] }],
  [
    'an error',
    400,
    '{"status":"error","errorType":"bad_data","error":"parse error"}',
    { error: 'bad_data: parse error' },
  ],
  ['another page', 200, '<html>', { error: 'status 200, and no result of a query for numbers' }],
  [
    'a matrix',
    200,
    '{"status":"success","data":{"resultType":"matrix","result":[]}}',
    { error: 'status 200, and no result of a query for numbers' },
  ],
] as const) {
  prometheus(`is ${what}`, async ({ url, say, asked }) => {
    say(status, body);
    assert.equal(await queryPrometheus({ url, query: 'up{job="a b"} > 1' }, 5000), expected);
    const address = new URL(asked[0] ?? '', url);
    assert.is(address.pathname, '/prefix/api/v1/query');
    assert.is(address.searchParams.get('query'), 'up{job="a b"} > 1');
  });
}

prometheus('is an error when there is none, it is too long or leads elsewhere', async ({ url, say, server }) => {
  assert.equal(await queryPrometheus({ url, query: 'up' }, 50), { error: 'no answer in 50 ms' });
  say(200, 'x'.repeat(2 << 20));
  assert.match(JSON.stringify(await queryPrometheus({ url, query: 'up' }, 5000)), /more than 1048576 bytes/);
  say(302, '');
  assert.ok('error' in (await queryPrometheus({ url, query: 'up' }, 5000)));
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await queryPrometheus({ url, query: 'up' }, 5000); // may still meet the connection that has just been closed
  assert.match(JSON.stringify(await queryPrometheus({ url, query: 'up' }, 5000)), /ECONNREFUSED/);
});

prometheus.run();

const processes = suite<{ child: ChildProcess; pid: number; port: number }>('the processes that policies choose');
const SERVER = `require('net').createServer().listen(0, '127.0.0.1', function () { console.log(this.address().port); });`;

/** The last word of its command line: nobody else's on this machine. */
const CHOSEN = `chosen-${process.pid}`;

processes.before.each(async (world) => {
  world.child = spawn('setsid', ['--fork', process.execPath, '-e', `${SERVER} console.error(process.pid)`, CHOSEN], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const line = (stream: NodeJS.ReadableStream | null): Promise<number> =>
    new Promise((resolve) => stream?.once('data', (chunk: Buffer) => resolve(Number(chunk.toString()))));
  [world.port, world.pid] = await Promise.all([line(world.child.stdout), line(world.child.stderr)]);
});
processes.after.each(({ pid }) => {
  process.kill(pid, 'SIGKILL');
});

const reader = new ProcessReader({ home: 'home', twins: () => [], moving: () => [] });

async function read(selector: string) {
  return reader.read(policies(`policies: [{name: p, processes: [${selector}], when: {draining: true}}]`));
}

processes('are read with all that a policy may ask for', async ({ pid, port }) => {
  const found = await read(`{commandLine: '*${CHOSEN}', port: ${port}}`);
  assert.equal(
    found.map((process) => process.pid),
    [pid],
  );
  const [process0] = found;
  assert.is(process0?.name, 'node');
  assert.is(process0?.uid, process.getuid?.());
  assert.equal(process0?.ports, [port]);
  assert.ok((process0?.residentBytes ?? 0) > 1_000_000);
  assert.is(process0?.location, 'home');
  assert.equal((await read(`{commandLine: '*${CHOSEN}', user: "${process0?.user}"}`)).length, 1);
  assert.equal(await read(`{commandLine: '*${CHOSEN}', port: 1}`), []);
});

processes('homeproxy itself is none of them, nor what it descends from or has started', async () => {
  const ours = (await read('{name: node*}')).map(({ pid }) => pid);
  assert.not(ours.includes(process.pid));
  assert.not(ours.includes(process.ppid));
  assert.is(reader.find(process.pid), undefined);
  assert.is(reader.find(1), undefined);
});

processes.run();
