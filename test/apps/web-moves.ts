import * as assert from 'uvu/assert';
import { killQuietly } from '../lab/node-command.js';
import { type AppScene, tell } from './app-scene.js';
import { Clients } from './clients.js';
import { type Errand, HTTP_CLIENT, type HttpLoadOptions, type HttpLoadResult } from './http-requests.js';

export interface WebServer {
  /** How it is started: a program and its arguments. */
  readonly command: readonly string[];
  /** Each gets clients of its own. */
  readonly ports: readonly [number, ...number[]];
  readonly env?: NodeJS.ProcessEnv;
  readonly errands: readonly Errand[];
  readonly load?: Partial<HttpLoadOptions>;
}

/** Starts a server of HTTP at home, moves it around under load, holds its clients' results against what they must be, and ends it. */
export async function webServerMoves(scene: AppScene, server: WebServer): Promise<void> {
  const { client, home } = scene.scenario;
  const { command, ports, errands } = server;
  const [program = ''] = command;
  const pid = await scene.serve(ports[0], command, server.env);
  const options = { connections: 24, inFlight: 1, paceMs: 20, errands, ...server.load, host: home.address };
  const start = (port: number) => Clients.start<HttpLoadResult>(client, HTTP_CLIENT, { ...options, port });
  const clients = await Promise.all(ports.map(start));
  const moves = await scene.tour(pid, program, {
    goesOn: async (replies) => {
      await Promise.all(clients.map((some) => some.goesOn(replies)));
    },
  });
  const results = await Promise.all(clients.map((some) => some.stop()));
  const replies = results.reduce((sum, result) => sum + result.replies, 0);
  const longest = Math.max(...results.map(({ longestMs }) => longestMs));
  tell(program, moves, `${replies} replies checked, longest ${longest.toFixed(0)} ms`);
  assert.equal(
    results.flatMap(({ faults }) => faults),
    [],
  );
  assert.ok(replies > 300, `only ${replies} replies`);
  killQuietly(home.machinePid(pid) ?? 0, 'SIGTERM');
}
