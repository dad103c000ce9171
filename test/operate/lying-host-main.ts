/*
 * node dist/test/operate/lying-host-main.js <seed> <knowledge as JSON>
 * Listens where the daemon of its node would, with that node's certificate, and answers to whatever other nodes ask with what the
 * methods' descriptions allow, and with what they do not. It never says that it runs a process: who believes that has lost it.
 * At SIGTERM it prints {"<method>": <times asked>}.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import * as fc from 'fast-check';
import { z } from 'zod';
import { loadConfig, ownNode } from '../../cli/config/load.js';
import { loadCredentials } from '../../cli/identity/credentials.js';
import { destinationMethods, sourceMethods } from '../../cli/node/peer-methods.js';
import { drainMarkMethod } from '../../cli/node/policy-methods.js';
import type { ProcessDescription } from '../../cli/process/description.js';
import { type Knowledge, requestsOf } from '../lab/hostile-requests.js';
import { PEER_METHODS, PEER_UPLOADS } from '../lab/peer-surface.js';

interface Told extends Knowledge {
  /** Ports of others that it says to be the process's. */
  readonly coveted: ProcessDescription['ports'];
}

const ASKED = '/run/lying-host.json';
const SAID = 'said by a liar \u001b]0;mine\u0007\u001b[2J\u202e';
const MEBIBYTE = 1 << 20;

const [seed = '', knowledgeText = ''] = process.argv.slice(2);
const knowledge = JSON.parse(knowledgeText) as Told;
const responses = new Map(
  [...PEER_METHODS, ...PEER_UPLOADS, drainMarkMethod].map(({ name, response }): [string, z.ZodType] => [
    name,
    response,
  ]),
);
const asked: Record<string, number> = {};
let questions = 0;
/** What each migration begins with, and how many of its questions are answered willingly: none, one, ... and then anew. */
const FIRST: readonly string[] = [destinationMethods.assess.name, sourceMethods.inspect.name];
const DEPTHS = 10;
let round = 0;
let answered = 0;

function pick<Value>(arbitrary: fc.Arbitrary<Value>): Value {
  questions++;
  return fc.sample(arbitrary, { seed: Number(seed) + questions, numRuns: 1 })[0] as Value;
}

/** The least that a description allows: empty lists, zeros. */
function least(schema: z.ZodType): unknown {
  const leastOf = (part: Record<string, unknown>): unknown => {
    if (Array.isArray(part.enum)) return part.enum[0];
    if (part.type === 'object') {
      const properties = Object.entries((part.properties ?? {}) as Record<string, Record<string, unknown>>);
      const required = (part.required ?? []) as string[];
      return Object.fromEntries(
        properties.filter(([name]) => required.includes(name)).map(([name, each]) => [name, leastOf(each)]),
      );
    }
    return { array: [], integer: 0, number: 0, boolean: false, string: '' }[String(part.type)] ?? null;
  };
  return leastOf(z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Record<string, unknown>);
}

/** What lets a migration go on, as far as it can be said without being true. */
function willing(method: string, response: z.ZodType): unknown {
  const told = existsSync(ASKED) ? (JSON.parse(readFileSync(ASKED, 'utf8')) as Record<string, unknown>) : undefined;
  if (told === undefined || !['source-inspect', 'source-drain'].includes(method)) return least(response);
  const real = told.description as ProcessDescription;
  const [port] = knowledge.coveted;
  const client = { address: '10.77.0.1', port: 40_000 };
  const flows = port === undefined ? [] : [{ protocol: port.protocol, local: port, remote: client }];
  const description = { ...real, ports: [...real.ports, ...knowledge.coveted], flows };
  return { ...Object(least(response)), description, ...('needs' in told ? { needs: told.needs } : {}) };
}

const error = fc.record({
  code: fc.constantFrom('COPY_LOST', 'REFUSED', 'RESIDENT_ENDED', 'STALE_EPOCH', 'X\u001b[8m', ''),
  kind: fc.constantFrom('user', 'external', 'bug'),
  message: fc.constant(SAID),
  remedy: fc.constantFrom(SAID, undefined),
  exitStatus: fc.constantFrom(1, 3, 6, 130, 255, 0, 1e9),
  command: fc.constantFrom(SAID, undefined),
  log: fc.constantFrom([SAID], undefined),
});

function answer(method: string, response: z.ZodType, outgoing: ServerResponse): void {
  const say = (status: number, value: unknown) =>
    outgoing.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
  if (method === destinationMethods.commit.name) {
    say(422, { error: { code: 'COPY_LOST', kind: 'user', message: SAID, exitStatus: 4 } });
    return;
  }
  if (FIRST.includes(method)) {
    round++;
    answered = 0;
  }
  const manner = answered++ < round % DEPTHS ? 'w' : pick(fc.constantFrom(...'wwwwwssseegmh'));
  if (manner === 'w') say(200, willing(method, response));
  else if (manner === 's') say(200, pick(requestsOf(response, knowledge)) ?? null);
  else if (manner === 'e') say(pick(fc.constantFrom(422, 500, 502)), { error: pick(error) });
  else if (manner === 'g') outgoing.socket?.destroy();
  else if (manner === 'm') outgoing.writeHead(200).end(Buffer.alloc(2 * MEBIBYTE, 'x'));
  else outgoing.writeHead(200, { 'content-length': '100' }).write('{'); // and no more
}

async function hear(request: IncomingMessage, outgoing: ServerResponse): Promise<void> {
  const [, , method = '', id] = (request.url ?? '').split('/');
  const response = responses.get(method);
  asked[method] = (asked[method] ?? 0) + 1;
  request.on('error', () => undefined);
  outgoing.on('error', () => undefined);
  if (response === undefined) {
    outgoing.writeHead(404).end();
    return;
  }
  if (id !== undefined && pick(fc.boolean())) request.resume();
  else {
    const body: Buffer[] = [];
    for await (const piece of request as AsyncIterable<Buffer>) body.push(piece);
    if (method === destinationMethods.assess.name) writeFileSync(ASKED, Buffer.concat(body));
  }
  answer(method, response, outgoing);
}

const config = await loadConfig('/etc/homeproxy/homeproxy.yaml');
const { ca, cert, key } = await loadCredentials(config.tls, config.node);
const { address, port } = ownNode(config);
const server = createServer({ ca, cert, key, requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.3' });
server.on('request', (request, outgoing) => void hear(request, outgoing).catch(() => outgoing.destroy()));
server.listen(port, address, () => console.error('listening'));
process.once('SIGTERM', () => {
  console.log(JSON.stringify(asked));
  process.exit(0);
});
