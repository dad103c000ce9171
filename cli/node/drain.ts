import { setTimeout as pause } from 'node:timers/promises';
import type { z } from 'zod';
import { asHomeproxyError, UserError } from '../errors.js';
import { type ControlContext, type EventMethodHandler, type MethodHandler, serveEvents } from './control-transport.js';
import type { Daemon } from './daemon.js';
import type { Drainee, LocalDrainee } from './drainee.js';
import { serve } from './method.js';
import type { PeerContext, MethodHandler as PeerMethodHandler } from './peer-transport.js';
import {
  type DrainHow,
  type DrainItem,
  type DrainReport,
  type DrainRow,
  drainMarkMethod,
  drainMethod,
  drainMoveMethod,
  evacuateMethod,
  undrainMethod,
} from './policy-methods.js';

type Emit = (event: z.input<typeof drainMethod.event>) => boolean;

/** How often to look whether a process that was on its way to a node when that was marked has come or not. */
const COMING_MS = 200;

interface DrainOptions extends DrainHow {
  /** Moves at the same time. */
  readonly parallel: number;
  /** Aborted: no more moves are begun; those that go on are waited for. */
  readonly signal: AbortSignal;
  readonly emit: Emit;
}

/** Marks a node and has everybody leave it; whoever cannot stays and is in the report. The mark stays in any case. */
export async function drain(drainee: Drainee, { parallel, signal, emit, ...how }: DrainOptions): Promise<DrainReport> {
  const rows = new Map<string, DrainRow>();
  const one = async (item: DrainItem): Promise<void> => {
    const { pid, name, home } = item;
    emit({ event: 'begun', pid, name, home });
    const row = await drainee.move(item, how).then(
      ({ to, freezeMs }): DrainRow => ({ pid, name, home, outcome: 'moved', to, freezeMs }),
      (thrown: unknown): DrainRow => {
        const { code, message } = asHomeproxyError(thrown);
        return { pid, name, home, outcome: 'failed', error: { code, message } };
      },
    );
    rows.set(keyOf(item), row);
    emit({ event: 'ended', row });
  };
  for (;;) {
    const { items, coming } = await drainee.mark(true);
    const waiting = items.filter((item) => !rows.has(keyOf(item)));
    if (signal.aborted) {
      for (const item of waiting) {
        const { pid, name, home } = item;
        rows.set(keyOf(item), { pid, name, home, outcome: 'not-tried' });
      }
      break;
    }
    if (waiting.length === 0 && coming === 0) break;
    if (waiting.length === 0) await pause(COMING_MS);
    const lane = async (): Promise<void> => {
      while (!signal.aborted) {
        const item = waiting.shift();
        if (item === undefined) return;
        await one(item);
      }
    };
    await Promise.all(Array.from({ length: parallel }, lane));
  }
  return { host: drainee.name, draining: true, processes: [...rows.values()] };
}

function keyOf(item: DrainItem): string {
  return `${item.home} ${item.kind === 'guest' ? item.twin : item.pid}`;
}

/** The daemon's answers to `homeproxy drain` and `undrain`. */
export function drainHandlers(daemon: Daemon): {
  methods: MethodHandler<ControlContext>[];
  eventMethods: EventMethodHandler<ControlContext>[];
} {
  return {
    methods: [
      serve(undrainMethod, async ({ host }) => {
        const drainee = draineeNamed(daemon, host);
        const { before } = await drainee.mark(false);
        return { host: drainee.name, draining: false as const, before };
      }),
    ],
    eventMethods: [
      serveEvents(drainMethod, async ({ host, ...how }, { signal }, emit) =>
        drain(draineeNamed(daemon, host), { ...how, signal, emit }),
      ),
    ],
  };
}

/**
 * What other nodes may ask: to empty this one, or to take processes of ours back from them.
 * @param masters the nodes that may empty it; undefined: all.
 */
export function draineeHandlers(
  drainee: LocalDrainee,
  masters: readonly string[] | undefined,
): PeerMethodHandler<PeerContext>[] {
  const requireMaster = (peer: string): void => {
    if (masters === undefined || masters.includes(peer)) return;
    throw new UserError({
      code: 'NOT_YOURS',
      message: `${drainee.name} is not emptied or opened from ${peer}`,
      remedy: `run the command on ${drainee.name}, or name ${peer} in its configuration: control.drainFrom`,
      exitStatus: 3,
    });
  };
  return [
    serve(drainMarkMethod, async ({ draining }, { peer }: PeerContext) => {
      requireMaster(peer);
      return drainee.mark(draining);
    }),
    serve(drainMoveMethod, async (item, { peer }: PeerContext) => {
      requireMaster(peer);
      return drainee.move(item, item);
    }),
    serve(evacuateMethod, async ({ twin, ...how }, { peer }: PeerContext) => drainee.evacuate(twin, peer, how)),
  ];
}

/** @param host name of a node; undefined: this one. @throws {UserError} `UNKNOWN_HOST` */
function draineeNamed({ site, clients, drainee, moveMs }: Daemon, host: string | undefined): Drainee {
  if (host === undefined || host === site.node.name) return drainee;
  const client = clients.get(host);
  if (client === undefined) {
    throw new UserError({
      code: 'UNKNOWN_HOST',
      message: `there is no node "${host}"; the configuration has ${site.nodes.map(({ name }) => name).join(', ')}`,
      remedy: 'see `homeproxy hosts`',
    });
  }
  return {
    name: host,
    mark: (draining) => client.call(drainMarkMethod, { draining }),
    move: (item, how) => client.call(drainMoveMethod, { ...item, ...how }, { timeoutMs: moveMs }),
  };
}
