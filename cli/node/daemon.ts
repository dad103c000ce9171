import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Logger } from 'pino';
import { findCriu } from '../checkpoint/criu.js';
import { type Config, ownNode } from '../config/load.js';
import { UserError } from '../errors.js';
import { LiveCredentials } from '../identity/live-credentials.js';
import type { Monitoring } from '../metrics/monitoring.js';
import type { Forwarding } from '../migration/binding-control.js';
import { Coordinator, type Participants } from '../migration/coordinator.js';
import { LocalDestination } from '../migration/destination.js';
import { Guests } from '../migration/guests.js';
import { Journal } from '../migration/journal.js';
import type { NodeName } from '../migration/messages.js';
import { PortLeases } from '../migration/port-leases.js';
import { Residents } from '../migration/residents.js';
import type { Site } from '../migration/site.js';
import { LocalSource } from '../migration/source.js';
import { observeSteps } from '../migration/steps.js';
import { sweep } from '../migration/sweep.js';
import { Twins } from '../migration/twins.js';
import { removePodRoot } from '../pod/pod.js';
import { gidOf } from '../system/accounts.js';
import { askWhereabouts } from './ask-whereabouts.js';
import { controlHandlers } from './control-handlers.js';
import { type ControlServer, createControlServer } from './control-transport.js';
import { draineeHandlers } from './drain.js';
import { LocalDrainee } from './drainee.js';
import { openForwarding } from './forwarding-setup.js';
import { stepLogger } from './migration-log.js';
import { logEnd, openMonitoring } from './monitoring-setup.js';
import {
  aheadUpload,
  filesOffer,
  filesUpload,
  imagesUpload,
  laterUpload,
  memoryUpload,
  participantHandlers,
} from './peer-methods.js';
import { createPeerServer, PeerClient, type PeerServer } from './peer-transport.js';
import { hostFactsHandler, openPolicies, type Policies, policyState } from './policy-setup.js';
import { rehearsalHandlers, rehearse } from './rehearsal.js';
import { remoteDestination, remoteSource } from './remote-participants.js';

/** Longer than that memory is not sent to a process that runs over one line; then over another. */
const LATER_MS = 86_400_000;

/** The daemon of one node: everything that it owns, made in order and closed in the opposite order. */
export class Daemon {
  readonly startedAt = Date.now();
  readonly stopped: Promise<void>;
  private stop: () => void = () => undefined;
  readonly drainee: LocalDrainee;
  private servers: { readonly peer: PeerServer; readonly control: ControlServer } | undefined;

  private constructor(
    readonly config: Config,
    readonly site: Site,
    readonly twins: Twins,
    readonly coordinator: Coordinator,
    readonly source: LocalSource,
    readonly clients: ReadonlyMap<string, PeerClient>,
    readonly monitoring: Monitoring,
    readonly policies: Policies,
    private readonly forwarding: Forwarding,
    private readonly endWatching: () => void,
  ) {
    this.stopped = new Promise((resolve) => {
      this.stop = resolve;
    });
    const { moveMs } = this;
    this.drainee = new LocalDrainee({ site, coordinator, policies, clients, moveMs });
  }

  /**
   * Loads or adopts the datapath, takes up the journal and listens.
   * @throws {UserError} what is wrong with the configuration, the credentials or this machine.
   */
  static async start(config: Config, logger: Logger): Promise<Daemon> {
    const self = ownNode(config);
    const node: NodeName = { name: self.name, address: self.address };
    const live = await LiveCredentials.load(config.tls, self.name, logger.child({ part: 'identity' }));
    const credentials = live.current;
    const group = config.control.group === undefined ? undefined : await gidOf(config.control.group);
    const guests = await Guests.resolve(config.node, config.guests.accept);
    mkdirSync(config.paths.run, { recursive: true, mode: 0o700 });
    warnWithoutCriu(config, logger);
    const journal = new Journal(config.paths.state);
    const forwarding = await openForwarding(config, node, journal, logger);
    const residents = new Residents(journal, forwarding);
    const leases = new PortLeases(journal.portLeases, config.portBlock.ports);
    const twins = new Twins(journal, forwarding, leases);
    const site: Site = {
      node,
      nodes: config.nodes.map(({ name, address }) => ({ name, address })),
      journal,
      forwarding,
      residents,
      twins,
      imageRoot: join(config.paths.run, 'images'),
      criuPath: config.criu.path,
      carriedRoot: join(config.paths.state, 'carried'),
      carry: config.carry,
      guests,
      report: (facts, message) => logger.warn(facts, message),
      timeouts: config.timeouts,
      bandwidthLimit: config.transfer.bandwidthLimit,
    };
    const swept = await sweep(journal, forwarding, site);
    if (swept === undefined) logger.warn('the journal was lost while processes are bound: run `homeproxy recover`');
    else if (swept.length > 0) logger.warn({ swept }, 'removed what a killed daemon had left without a record');
    await residents.adopt();
    await twins.adopt();
    const endNotes = observeSteps((step, migration) => {
      journal.steps.append(migration, { step, at: performance.timeOrigin + performance.now() });
    });
    const endLines = observeSteps(stepLogger(logger, journal));

    const clients = new Map(
      config.nodes
        .filter(({ name }) => name !== self.name)
        .map((peer) => [peer.name, new PeerClient({ credentials, node: peer, connectMs: config.timeouts.connectMs })]),
    );
    const destination = new LocalDestination(site);
    const source = new LocalSource(site, {
      open: async (to) => requireClient(clients, to).warm({ timeoutMs: config.timeouts.connectMs }),
      sendAhead: async (to, migration, pages) => {
        const { transferMs } = config.timeouts;
        const { bytes } = await requireClient(clients, to).stream(aheadUpload, migration, pages, {
          timeoutMs: transferMs,
        });
        return bytes;
      },
      offerFiles: async (to, migration, entries) => {
        const list = Readable.from([Buffer.from(JSON.stringify(entries))], { objectMode: false });
        const timeoutMs = config.timeouts.transferMs;
        return (await requireClient(clients, to).stream(filesOffer, migration, list, { timeoutMs })).lacking;
      },
      sendFiles: async (to, migration, parcel) => {
        const { transferMs } = config.timeouts;
        await requireClient(clients, to).stream(filesUpload, migration, parcel, { timeoutMs: transferMs });
      },
      sendMemory: async (to, migration, feed, signal) => {
        const { transferMs, freezeMs } = config.timeouts;
        const timeoutMs = 2 * transferMs + freezeMs; // before the freeze and in it
        await requireClient(clients, to).line(memoryUpload, migration, feed, { timeoutMs, signal });
      },
      sendLater: async (to, migration, feed, signal) => {
        await requireClient(clients, to).line(laterUpload, migration, feed, { timeoutMs: LATER_MS, signal });
      },
      send: async (to, migration, images, signal) => {
        const { transferMs } = config.timeouts;
        await requireClient(clients, to).stream(imagesUpload, migration, images, { timeoutMs: transferMs, signal });
      },
    });
    const participants: Participants = {
      source: (at) => (at.name === node.name ? source : remoteSource(at, requireClient(clients, at), config.timeouts)),
      destination: (at) =>
        at.name === node.name ? destination : remoteDestination(at, requireClient(clients, at), config.timeouts),
    };
    source.adopt();
    destination.adopt();
    const moving = (): readonly number[] => coordinator.movingPids();
    const policies = openPolicies({ config, site, clients, coordinator: () => coordinator }, logger);
    const monitoring = openMonitoring(
      { config, site, credentials: live, clients, moving, policies: () => policyState(policies) },
      logger,
    );
    const coordinator: Coordinator = new Coordinator(site, twins, participants, (end) => {
      logEnd(logger, end);
      monitoring.observe(end);
      policies.runner?.ended(end);
    });
    const daemon = new Daemon(
      config,
      site,
      twins,
      coordinator,
      source,
      clients,
      monitoring,
      policies,
      forwarding,
      () => {
        endNotes();
        endLines();
        live.close();
      },
    );
    const transportLogger = logger.child({ part: 'transport' });
    const { methods, uploads, lines } = participantHandlers({
      source,
      destination,
      residents,
      twins,
      steps: journal.steps,
      connections: journal.connections,
    });
    const peer = await createPeerServer({
      credentials,
      nodes: config.nodes,
      address: self.address,
      port: self.port,
      logger: transportLogger,
      methods: [...methods, hostFactsHandler(policies), ...draineeHandlers(daemon.drainee, config.control.drainFrom)],
      lines,
      uploads: [...uploads, ...rehearsalHandlers(node.name, site.imageRoot)],
    });
    const control = await createControlServer({
      path: join(config.paths.run, 'control.sock'),
      ...(group === undefined ? {} : { group }),
      logger: transportLogger,
      ...controlHandlers(daemon),
    });
    daemon.servers = { peer, control };
    live.onRenewal((renewed) => {
      peer.renew(renewed);
      for (const client of clients.values()) client.renew(renewed);
    });
    live.watch();
    await monitoring.start();
    coordinator.recover((record, outcome, error) => {
      const fields = { migration: record.migration, pid: record.pid, from: record.from.name, to: record.to.name };
      logger.warn({ ...fields, err: error }, `a migration that a crash had cut short: ${outcome}`);
    });
    policies.runner?.start();
    askWhereabouts(site, clients, (twin) =>
      logger.warn({ twin }, 'fenced: its home says that it runs elsewhere'),
    ).catch((error: unknown) => logger.warn({ err: error }, 'not every home could be asked for its processes'));
    const mirror = new PeerClient({ credentials, node: self, connectMs: config.timeouts.connectMs });
    rehearse(mirror, site.imageRoot).catch((error: unknown) => logger.warn({ err: error }, 'the rehearsal failed'));
    logger.info({ node: node.name, address: node.address, uplinks: forwarding.datapath.status() }, 'up');
    return daemon;
  }

  /** For one whole move that another node decides, in milliseconds: every phase may take its time. */
  get moveMs(): number {
    return Object.values(this.config.timeouts).reduce((sum, ms) => sum + ms, 0);
  }

  /** Asks the daemon to end; `stopped` resolves when somebody has. */
  requestStop(): void {
    this.stop();
  }

  /** Detaches the datapath and removes its pins, maps and counters; refuses while a process depends on it. */
  async detach(force: boolean): Promise<string[]> {
    const dependent = [
      ...this.twins.all().map((twin) => `process ${twin.homePid} is away on ${twin.record.location.name}`),
      ...this.site.residents
        .all()
        .map((resident) => `process ${resident.description.homePid} of ${resident.home.name} runs here`),
    ];
    if (dependent.length > 0 && !force) {
      throw new UserError({
        code: 'STILL_NEEDED',
        message: `the datapath is still needed: ${dependent.join('; ')}`,
        remedy: 'recall or move those processes first (`homeproxy ps`); --force cuts their connections',
      });
    }
    this.twins.endLeases();
    return [...(await this.forwarding.datapath.detach()), ...removePodRoot()];
  }

  /** Ends listening and closes files. The datapath stays attached: forwarding goes on without us. */
  async close(): Promise<void> {
    await this.policies.runner?.close();
    this.coordinator.close();
    await this.monitoring.close();
    await this.servers?.control.close();
    await this.servers?.peer.close();
    for (const client of this.clients.values()) client.close();
    this.forwarding.leftBehind.close();
    this.forwarding.neighbours.close();
    this.forwarding.monitor.close();
    this.forwarding.datapath.close();
    this.endWatching();
    await this.site.journal.close();
  }
}

function requireClient(clients: ReadonlyMap<string, PeerClient>, node: NodeName): PeerClient {
  const client = clients.get(node.name);
  if (client !== undefined) return client;
  throw new UserError({
    code: 'UNKNOWN_HOST',
    message: `there is no node "${node.name}" in the configuration of this one`,
    remedy: 'the list of nodes must be the same everywhere',
  });
}

/** A node without CRIU can still be the home of processes that are away: it starts, and says what it cannot do. */
function warnWithoutCriu(config: Config, logger: Logger): void {
  try {
    findCriu(config.criu.path);
  } catch (error) {
    logger.warn(
      { remedy: (error as UserError).remedy },
      `${(error as Error).message}: no process can leave or come here`,
    );
  }
}
