import type { z } from 'zod';
import { UserError } from '../errors.js';
import type { EventFilter, PacketEvent } from '../forwarding/events.js';
import { REASON_NAMES } from '../forwarding/reasons.js';
import { type ControlContext, type EventMethodHandler, serveEvents } from './control-transport.js';
import type { Daemon } from './daemon.js';
import { type PacketEventRow, type TraceReport, traceMethod } from './trace-method.js';

type TraceRequest = z.output<typeof traceMethod.request>;

/** Sends a client the events that it asks for. What it does not read in time is dropped and counted, for it alone. */
export function traceHandler(daemon: Daemon): EventMethodHandler<ControlContext> {
  return serveEvents(traceMethod, async (request, { signal }, emit) => {
    const { events } = daemon.site.forwarding.datapath;
    const filter = filterOf(daemon, request);
    return await new Promise<TraceReport>((resolve, reject) => {
      const report = { events: 0, missed: 0 };
      let over = false;
      const end = (settle: () => void): void => {
        if (over) return;
        over = true;
        stop();
        settle();
      };
      const show = (event: PacketEvent): void => {
        if (over) return;
        report[emit(rowOf(daemon, event)) ? 'events' : 'missed'] += 1;
        if (report.events === request.count) end(() => resolve(report));
      };
      const recent = events.recentDrops(filter, request.recent);
      const stop = events.subscribe(filter, show);
      signal.addEventListener('abort', () => end(() => resolve(report)), { once: true });
      if (signal.aborted) end(() => resolve(report));
      void daemon.stopped.then(() => end(() => reject(ending())));
      for (const event of recent) show(event);
    });
  });
}

function filterOf(daemon: Daemon, { drops, oneIn, reasons, pid, binding }: TraceRequest): EventFilter {
  const wanted = binding ?? (pid === undefined ? undefined : bindingOf(daemon, pid));
  return {
    drops,
    oneIn,
    reasons: REASON_NAMES.filter((name) => reasons.includes(name)),
    ...(wanted === undefined ? {} : { binding: wanted }),
  };
}

/** Twins and residents with the binding of each. */
function bound({ twins, site }: Daemon): { pid: number; comm: string; binding: number }[] {
  const departed = twins.all().map(({ record, control }) => ({ ...record.description, binding: control.id }));
  const residents = site.residents.all().map(({ description, control }) => ({ ...description, binding: control.id }));
  return [...departed, ...residents].map(({ homePid, comm, binding }) => ({ pid: homePid, comm, binding }));
}

function bindingOf(daemon: Daemon, pid: number): number {
  const found = bound(daemon).find((process) => process.pid === pid);
  if (found !== undefined) return found.binding;
  throw new UserError({
    code: 'NOT_BOUND',
    message: `process ${pid} is neither away from here nor here for another home: none of its packets are ours`,
    remedy: '`homeproxy ps` shows those that are',
  });
}

function rowOf(daemon: Daemon, { binding, ...event }: PacketEvent): PacketEventRow {
  const process = binding === 0 ? undefined : bound(daemon).find((each) => each.binding === binding);
  const uplink = daemon.site.forwarding.datapath.status().find(({ ifindex }) => ifindex === event.ifindex);
  return {
    ...event,
    ...(binding === 0 ? {} : { binding }),
    ...(process === undefined ? {} : { pid: process.pid, comm: process.comm }),
    ...(uplink === undefined ? {} : { interface: uplink.interface }),
  };
}

function ending(): UserError {
  return new UserError({
    code: 'DAEMON_LOST',
    message: 'the daemon ended while it was traced',
    remedy: 'homeproxy up, then trace again',
    exitStatus: 7,
  });
}
