import { asHomeproxyError, UserError } from '../errors.js';
import type { PortBlock } from '../forwarding/port-block.js';
import type { Carry } from '../migration/messages.js';
import { newMigrationId } from '../migration/migration-id.js';
import { incompleteOf } from '../migration/paging.js';
import type { ProcessDescription } from '../process/description.js';
import { packageVersion } from '../system/project.js';
import {
  assessMethod,
  downMethod,
  type HostRow,
  hostsMethod,
  inspectMethod,
  journalMethod,
  migrateMethod,
  type ProcessRow,
  psMethod,
  type RecoverReport,
  recoverMethod,
  reportMethod,
  type StatusReport,
  statusMethod,
} from './control-methods.js';
import {
  type ControlContext,
  type EventMethodHandler,
  type MethodHandler,
  serve,
  serveEvents,
} from './control-transport.js';
import type { Daemon } from './daemon.js';
import { drainHandlers } from './drain.js';
import { journalOf, reportOn } from './journal-report.js';
import { requesterOf } from './local-access.js';
import { ping } from './peer-transport.js';
import { hostFactsMethod } from './policy-methods.js';
import { policyHandlers } from './policy-setup.js';
import { topHandler } from './top-handler.js';
import { traceHandler } from './trace-handler.js';

export interface ControlHandlers {
  readonly methods: readonly MethodHandler<ControlContext>[];
  readonly eventMethods: readonly EventMethodHandler<ControlContext>[];
}

/** The daemon's answers to the commands of this machine. */
export function controlHandlers(daemon: Daemon): ControlHandlers {
  const drains = drainHandlers(daemon);
  return {
    methods: [
      ...policyHandlers(daemon.policies),
      ...drains.methods,
      serve(statusMethod, async () => status(daemon)),
      serve(psMethod, async () => ({ processes: processes(daemon) })),
      serve(hostsMethod, async () => ({ hosts: await hosts(daemon) })),
      serve(inspectMethod, async ({ pid, ...files }, { caller }) =>
        daemon.coordinator.assess(pid, undefined, { ...requesterOf(caller), carry: carryOf(files) }),
      ),
      serve(assessMethod, async ({ pid, to, resetClosing, ...files }, { caller }) =>
        daemon.coordinator.assess(pid, to ?? daemon.site.node.name, {
          ...requesterOf(caller),
          carry: carryOf(files),
          ...(resetClosing === undefined ? {} : { resetClosing }),
        }),
      ),
      serve(recoverMethod, async () => recover(daemon)),
      serve(journalMethod, async (request) => journalOf(daemon.site, request)),
      serve(reportMethod, async ({ migration }) => reportOn(daemon.site, daemon.clients, migration)),
      topHandler(daemon),
      serve(downMethod, async ({ force }) => {
        const removed = await daemon.detach(force);
        daemon.requestStop();
        return { removed };
      }),
    ],
    eventMethods: [
      serveEvents(migrateMethod, async (request, { signal, caller, about }, emit) => {
        const {
          pid,
          to,
          maxFreezeMs,
          freezeBudgetMs,
          bandwidthLimit,
          throttle,
          copyAhead,
          postCopy,
          resetClosing,
          ...files
        } = request;
        about.migration = newMigrationId();
        return await daemon.coordinator.migrate(pid, to ?? daemon.site.node.name, {
          migration: about.migration,
          signal,
          onPhase: emit,
          ...requesterOf(caller),
          carry: carryOf(files),
          ...(maxFreezeMs === undefined ? {} : { maxFreezeMs }),
          ...(freezeBudgetMs === undefined ? {} : { freezeBudgetMs }),
          ...(bandwidthLimit === undefined ? {} : { bandwidthLimit }),
          ...(throttle === undefined ? {} : { throttle }),
          ...(copyAhead === undefined ? {} : { copyAhead }),
          ...(postCopy === undefined ? {} : { postCopy }),
          ...(resetClosing === undefined ? {} : { resetClosing }),
        });
      }),
      traceHandler(daemon),
      ...drains.eventMethods,
    ],
  };
}

/** What a command says of the files. @throws {UserError} `USAGE` */
function carryOf({ files, carry }: { files?: string | undefined; carry?: string[] | undefined }): Carry | undefined {
  if (files === 'carry') return { paths: carry ?? [] };
  if (carry === undefined) return undefined;
  throw new UserError({
    code: 'USAGE',
    message: 'paths to carry were named, and no files are to be carried',
    remedy: 'add --files carry',
    exitStatus: 2,
  });
}

function status(daemon: Daemon): StatusReport {
  const { site, twins, coordinator, source, monitoring } = daemon;
  const { datapath } = site.forwarding;
  return {
    node: site.node.name,
    address: site.node.address,
    version: packageVersion(),
    pid: process.pid,
    startedAt: daemon.startedAt,
    uplinks: [...datapath.status()],
    bindings: [...datapath.tables.bindings.entries()].length,
    departed: twins.all().length,
    residents: site.residents.all().length,
    moving: coordinator.movingPids(),
    incomplete: incompleteOf(site.journal.arrivals.all()),
    kept: source.kept(),
    metrics: { ...monitoring.status },
    counters: datapath.counters().map(({ hook, reason, packets, bytes }) => ({
      hook,
      reason,
      packets: Number(packets),
      bytes: Number(bytes),
    })),
  };
}

function processes(daemon: Daemon): ProcessRow[] {
  const { site, twins, coordinator } = daemon;
  const moving = new Set(coordinator.movingPids());
  const rowOf = (description: ProcessDescription, binding: number) => ({
    binding,
    pid: description.homePid,
    comm: description.comm,
    commandLine: description.commandLine,
    ports: [...new Set(description.ports.map(({ protocol, port }) => `${protocol} ${port}`))],
    counters: Object.fromEntries(
      Object.entries(site.forwarding.datapath.bindingCounters(binding)).map(([reason, { packets, bytes }]) => [
        reason,
        { packets: Number(packets), bytes: Number(bytes) },
      ]),
    ),
  });
  const departed = twins.all().map(({ record, homePid, control }) => ({
    ...rowOf(record.description, control.id),
    home: site.node.name,
    location: record.location.name,
    files: record.carry === undefined ? ('shared' as const) : ('carried' as const),
    role: moving.has(homePid) ? ('moving' as const) : ('departed' as const),
    since: record.departedAt,
    epoch: record.epoch,
    ...blockOf(record),
  }));
  const residents = site.residents.all().map(({ record, control }) => ({
    ...rowOf(record.description, control.id),
    home: record.home.name,
    location: site.node.name,
    files: record.pod.root === undefined ? ('shared' as const) : ('carried' as const),
    role: 'resident' as const,
    since: record.arrivedAt,
    epoch: record.epoch,
    ...blockOf(record),
  }));
  return [...departed, ...residents];
}

function blockOf({ block }: { readonly block?: PortBlock | undefined }): Pick<ProcessRow, 'portBlock'> {
  return block === undefined ? {} : { portBlock: `${block.first}-${block.last}` };
}

async function hosts({ config, site, clients, twins }: Daemon): Promise<HostRow[]> {
  return Promise.all(
    config.nodes.map(async ({ name, address, port }): Promise<HostRow> => {
      const row = {
        name,
        address,
        port,
        self: name === site.node.name,
        departedHere: twins.all().filter((twin) => twin.record.location.name === name).length,
      };
      const client = clients.get(name);
      if (client === undefined) return { ...row, reachable: true, draining: site.journal.draining };
      const started = performance.now();
      try {
        await client.call(ping, {}, { timeoutMs: config.timeouts.connectMs });
        const roundTripMs = Math.round((performance.now() - started) * 100) / 100;
        const facts = await client.call(hostFactsMethod, { paths: [] }).catch(() => undefined);
        const said = facts === undefined ? {} : { draining: facts.draining };
        return { ...row, reachable: true, roundTripMs, ...said };
      } catch (error) {
        const { code, message } = asHomeproxyError(error);
        return { ...row, reachable: false, error: { code, message } };
      }
    }),
  );
}

async function recover({ coordinator }: Daemon): Promise<RecoverReport> {
  const { processes, migrations, unreachable } = await coordinator.rebuild();
  return {
    processes: processes.map(({ error, ...row }) => ({ ...row, ...(error === undefined ? {} : { error }) })),
    migrations: [...migrations],
    unreachable: [...unreachable],
  };
}
