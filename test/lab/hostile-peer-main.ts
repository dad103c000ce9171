/*
 * node dist/test/lab/hostile-peer-main.js <seed> <rounds> <knowledge as JSON> <name>=<address>...
 * Runs on a node whose own daemon is down, with that node's certificate, and says to the other nodes' daemons whatever their
 * methods allow, and what they do not. Takes back at the end what it was allowed to begin. Prints {"answers": {"<code>":
 * <times>}, "bugs": [...]}.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { loadConfig, ownNode } from '../../cli/config/load.js';
import { BugError, HomeproxyError } from '../../cli/errors.js';
import { loadCredentials } from '../../cli/identity/credentials.js';
import { destinationMethods } from '../../cli/node/peer-methods.js';
import { PeerClient } from '../../cli/node/peer-transport.js';
import { type Knowledge, requestsOf } from './hostile-requests.js';
import { PEER_METHODS, PEER_UPLOADS } from './peer-surface.js';

/** For each call: nothing that a stranger may ask for takes long. */
const TIMEOUT_MS = 10_000;
const SLOW_CONNECTIONS = 100;

const [seedText = '', roundsText = '', knowledgeText = '', ...targets] = process.argv.slice(2);
const knowledge = JSON.parse(knowledgeText) as Knowledge;
const random = { seed: Number(seedText), numRuns: Number(roundsText) };
const answers: Record<string, number> = {};
const bugs: string[] = [];

const config = await loadConfig('/etc/homeproxy/homeproxy.yaml');
const credentials = await loadCredentials(config.tls, config.node);

async function note(what: string, request: unknown, call: () => Promise<unknown>): Promise<void> {
  let code = 'answered';
  try {
    await call();
  } catch (error) {
    if (!(error instanceof HomeproxyError)) throw error;
    ({ code } = error);
    if (error instanceof BugError) bugs.push(`${what} ${JSON.stringify(request)}: ${error.message}`);
  }
  answers[code] = (answers[code] ?? 0) + 1;
}

/** Bytes that are no protocol, and connections that say next to nothing. */
async function disturb(address: string, port: number): Promise<void> {
  const sockets = Array.from({ length: SLOW_CONNECTIONS }, (_each, index) => {
    const socket = connect({ host: address, port });
    socket.on('error', () => undefined);
    socket.write(index % 2 === 0 ? Buffer.from([0x16]) : Buffer.from('GET / HTTP/1.1\r\n\r\n'.repeat(index)));
    return socket;
  });
  await Promise.race([Promise.all(sockets.map((socket) => once(socket, 'close'))), sleep(2000)]);
  for (const socket of sockets) socket.destroy();
}

/** A request about a process of this node's own: others must hear it out. */
function inMyName(request: unknown): unknown {
  if (request === null || typeof request !== 'object' || !('home' in request)) return request;
  const self = { name: config.node, address: ownNode(config).address };
  const description = {
    ...Object((request as { description?: object }).description),
    homeAddresses: [self.address],
    ports: [],
  };
  return {
    ...request,
    home: self,
    ...('source' in request ? { source: self } : {}),
    description: { ...description, flows: [] },
  };
}

async function attack(target: string): Promise<void> {
  const [name = '', address = ''] = target.split('=');
  const port = config.nodes.find((node) => node.name === name)?.port ?? 0;
  const client = new PeerClient({ credentials, node: { name, address, port } });
  const begun = new Set<string>();
  await disturb(address, port);
  for (const method of PEER_METHODS) {
    await fc.assert(
      fc.asyncProperty(requestsOf(method.request, knowledge), fc.boolean(), async (asMade, honest) => {
        const request = honest ? inMyName(asMade) : asMade;
        const { migration } = Object(request) as { migration?: unknown };
        if (method === destinationMethods.prepare && typeof migration === 'string') begun.add(migration);
        await note(method.name, request, () => client.call(method, request as never, { timeoutMs: TIMEOUT_MS }));
      }),
      random,
    );
  }
  const ids = fc.constantFrom(...knowledge.migrations, ...begun, 'm-00000000-nobody', '..', '7');
  for (const upload of PEER_UPLOADS) {
    await fc.assert(
      fc.asyncProperty(ids, fc.array(fc.uint8Array({ maxLength: 4096 }), { maxLength: 8 }), async (id, parts) => {
        const body = (async function* (): AsyncGenerator<Uint8Array> {
          yield* parts;
        })();
        await note(upload.name, { id, parts: parts.length }, () =>
          client.stream(upload, id, body, { timeoutMs: TIMEOUT_MS }),
        );
      }),
      random,
    );
  }
  for (const migration of begun) {
    const request = { migration };
    await client.call(destinationMethods.abort, request, { timeoutMs: TIMEOUT_MS }).catch(() => undefined);
  }
  client.close();
}

for (const target of targets) await attack(target);
console.log(JSON.stringify({ answers, bugs }));
