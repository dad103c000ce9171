import { UserError } from '../errors.js';
import { copyProgress } from '../memory/carried.js';
import type { ConnectionNote, ConnectionTable } from '../migration/connection-table.js';
import type { LocalDestination } from '../migration/destination.js';
import type { StepTable } from '../migration/journal.js';
import {
  aheadResponse,
  assessRequest,
  assessResponse,
  type CopyRequest,
  copyRequest,
  drainResponse,
  type FreezeRequest,
  fenceRequest,
  freezeRequest,
  freezeResponse,
  holdingResponse,
  inspectRequest,
  inspectResponse,
  type MigrationRequest,
  migrationRequest,
  nothing,
  offerResponse,
  parkCountsSchema,
  prepareDestinationRequest,
  prepareDestinationResponse,
  prepareSourceRequest,
  type RestoreRequest,
  residentRequest,
  restoreRequest,
  restoreResponse,
  stepsResponse,
  transferResponse,
  whereaboutsRequest,
  whereaboutsResponse,
} from '../migration/messages.js';
import type { Residents } from '../migration/residents.js';
import type { LocalSource } from '../migration/source.js';
import type { Twins } from '../migration/twins.js';
import {
  defineMethod,
  defineUpload,
  type LineHandler,
  type MethodHandler,
  type PeerContext,
  serve,
  serveLine,
  serveUpload,
  type UploadHandler,
} from './peer-transport.js';

/** What a coordinator asks of the source. */
export const sourceMethods = {
  inspect: defineMethod({ name: 'source-inspect', request: inspectRequest, response: inspectResponse }),
  discard: defineMethod({ name: 'source-discard', request: residentRequest, response: nothing }),
  prepare: defineMethod({ name: 'source-prepare', request: prepareSourceRequest, response: nothing }),
  sendAhead: defineMethod({ name: 'source-send-ahead', request: copyRequest, response: transferResponse }),
  progress: defineMethod({ name: 'source-progress', request: migrationRequest, response: copyProgress }),
  carry: defineMethod({ name: 'source-carry', request: migrationRequest, response: transferResponse }),
  drain: defineMethod({ name: 'source-drain', request: migrationRequest, response: drainResponse }),
  freeze: defineMethod({ name: 'source-freeze', request: freezeRequest, response: freezeResponse }),
  transfer: defineMethod({ name: 'source-transfer', request: migrationRequest, response: transferResponse }),
  commit: defineMethod({ name: 'source-commit', request: migrationRequest, response: parkCountsSchema }),
  abort: defineMethod({ name: 'source-abort', request: migrationRequest, response: nothing }),
  finish: defineMethod({ name: 'source-finish', request: migrationRequest, response: nothing }),
};

/** What a coordinator asks of the destination. */
export const destinationMethods = {
  fence: defineMethod({ name: 'fence', request: fenceRequest, response: nothing }),
  holding: defineMethod({ name: 'holding', request: nothing, response: holdingResponse }),
  assess: defineMethod({ name: 'destination-assess', request: assessRequest, response: assessResponse }),
  prepare: defineMethod({
    name: 'destination-prepare',
    request: prepareDestinationRequest,
    response: prepareDestinationResponse,
  }),
  restore: defineMethod({ name: 'destination-restore', request: restoreRequest, response: restoreResponse }),
  commit: defineMethod({ name: 'destination-commit', request: migrationRequest, response: nothing }),
  finish: defineMethod({ name: 'destination-finish', request: migrationRequest, response: nothing }),
  abort: defineMethod({ name: 'destination-abort', request: migrationRequest, response: nothing }),
};

/** What a host asks of the home of a process that lives on it. */
export const whereabouts = defineMethod({
  name: 'whereabouts',
  request: whereaboutsRequest,
  response: whereaboutsResponse,
});

/** When a migration came to each step on the asked node: for people who look back at it. */
export const migrationSteps = defineMethod({
  name: 'steps',
  request: migrationRequest,
  response: stepsResponse,
});

/** What a source sends to the destination, memory before the freeze and images in it; the id is the migration's. */
export const imagesUpload = defineUpload({ name: 'images', response: nothing });
export const aheadUpload = defineUpload({ name: 'ahead', response: aheadResponse });
/** The list of all files that travel, and files. */
export const filesOffer = defineUpload({ name: 'files-offer', response: offerResponse });
export const filesUpload = defineUpload({ name: 'files', response: nothing });
export const memoryUpload = defineUpload({ name: 'memory', response: nothing });
export const laterUpload = defineUpload({ name: 'later', response: nothing });

export interface ParticipantParts {
  readonly source: LocalSource;
  readonly destination: LocalDestination;
  readonly residents: Residents;
  readonly twins: Twins;
  readonly steps: StepTable;
  readonly connections: ConnectionTable;
}

export interface PeerHandlers {
  readonly methods: readonly MethodHandler<PeerContext>[];
  readonly uploads: readonly UploadHandler<PeerContext>[];
  readonly lines: readonly LineHandler<PeerContext>[];
}

/**
 * This node's participants, as other nodes may call them. A node can move only its own processes: it must be the home that
 * it names, and only the home that prepared a migration may go on with it.
 */
export function participantHandlers({
  source,
  destination,
  residents,
  twins,
  steps,
  connections,
}: ParticipantParts): PeerHandlers {
  type Named = { readonly migration: string };
  /** The participants' journal knows whose migration it is, also after a restart; of an unknown one they say what that means. */
  const owned = <Request extends Named, Result>(
    role: LocalSource | LocalDestination,
    handle: (request: Request) => Promise<Result>,
  ) => {
    return async (request: Request, { peer }: PeerContext): Promise<Result> => {
      const home = role.homeOf(request.migration);
      if (home !== undefined && home !== peer) throw notYours(peer, `migration ${request.migration}`);
      return handle(request);
    };
  };
  const done = <Request>(handle: (request: Request) => Promise<void>): ((request: Request) => Promise<object>) => {
    return async (request) => {
      await handle(request);
      return {};
    };
  };
  const requireHome = (twin: string, peer: string): void => {
    const resident = residents.find(twin);
    if (resident?.home.name !== peer) throw notYours(peer, `process ${twin}`);
  };

  const methods: MethodHandler<PeerContext>[] = [
    serve(sourceMethods.inspect, async (request, { peer }: PeerContext) => {
      requireHome(request.twin ?? '', peer);
      return source.inspect(request);
    }),
    serve(sourceMethods.discard, async (request, { peer }: PeerContext) => {
      if (residents.find(request.twin) !== undefined) requireHome(request.twin, peer);
      await source.discard(request);
      return {};
    }),
    serve(sourceMethods.prepare, async (request, { peer }: PeerContext) => {
      requireHome(request.twin, peer);
      await source.prepare(request);
      return {};
    }),
    serve(
      sourceMethods.sendAhead,
      owned(source, (request: CopyRequest) => source.sendAhead(request)),
    ),
    serve(
      sourceMethods.progress,
      owned(source, (request: MigrationRequest) => source.progress(request)),
    ),
    serve(
      sourceMethods.carry,
      owned(source, (request: MigrationRequest) => source.carry(request)),
    ),
    serve(
      sourceMethods.drain,
      owned(source, (request: MigrationRequest) => source.drain(request)),
    ),
    serve(
      sourceMethods.freeze,
      owned(source, async (request: FreezeRequest) => ({ notKept: [...(await source.freeze(request)).notKept] })),
    ),
    serve(
      sourceMethods.transfer,
      owned(source, (request: MigrationRequest) => source.transfer(request)),
    ),
    serve(
      sourceMethods.commit,
      owned(source, (request: MigrationRequest) => source.commit(request)),
    ),
    serve(
      sourceMethods.abort,
      owned(
        source,
        done((request: MigrationRequest) => source.abort(request)),
      ),
    ),
    serve(
      sourceMethods.finish,
      owned(
        source,
        done((request: MigrationRequest) => source.finish(request)),
      ),
    ),
    serve(whereabouts, async ({ twins: asked }, { peer }: PeerContext) => ({
      known: asked.flatMap((id) => {
        const record = twins.byId(id)?.record;
        if (record === undefined) return [];
        // where it is, is nobody's business but that of the node which believes to have it
        const location = record.location.name === peer ? peer : 'elsewhere';
        return [{ twin: id, epoch: record.epoch, location }];
      }),
    })),
    serve(migrationSteps, async ({ migration }, { peer }: PeerContext) => ({
      steps: steps.of(migration),
      ...noted(connections.of(migration, peer)),
    })),
    serve(destinationMethods.fence, async (request, { peer }: PeerContext) => {
      const resident = residents.find(request.twin);
      if (resident !== undefined) requireHome(request.twin, peer);
      await destination.fence(request);
      return {};
    }),
    serve(destinationMethods.holding, async (_request, { peer }: PeerContext) => destination.holding(peer)),
    serve(destinationMethods.assess, async (request, { peer }: PeerContext) => {
      if (request.home.name !== peer) throw notYours(peer, `a process of ${request.home.name}`);
      return destination.assess(request);
    }),
    serve(destinationMethods.prepare, async (request, { peer }: PeerContext) => {
      if (request.home.name !== peer) throw notYours(peer, `a process of ${request.home.name}`);
      return destination.prepare(request);
    }),
    serve(
      destinationMethods.restore,
      owned(destination, (request: RestoreRequest) => destination.restore(request)),
    ),
    serve(
      destinationMethods.commit,
      owned(
        destination,
        done((request: MigrationRequest) => destination.commit(request)),
      ),
    ),
    serve(
      destinationMethods.finish,
      owned(
        destination,
        done((request: MigrationRequest) => destination.finish(request)),
      ),
    ),
    serve(
      destinationMethods.abort,
      owned(
        destination,
        done((request: MigrationRequest) => destination.abort(request)),
      ),
    ),
  ];
  const uploads = [
    serveUpload(imagesUpload, async (migration, body, { peer }: PeerContext) => {
      await destination.receive(peer, migration, body);
      return {};
    }),
    serveUpload(aheadUpload, async (migration, body, { peer }: PeerContext) => {
      return { bytes: await destination.receiveAhead(peer, migration, body) };
    }),
    serveUpload(filesOffer, async (migration, body, { peer }: PeerContext) => {
      return { lacking: await destination.receiveOffer(peer, migration, body) };
    }),
    serveUpload(filesUpload, async (migration, body, { peer }: PeerContext) => {
      await destination.receiveFiles(peer, migration, body);
      return {};
    }),
  ];
  const lines = [
    serveLine(memoryUpload, async (migration, line, { peer }: PeerContext) => {
      await destination.receiveMemory(peer, migration, line);
      return {};
    }),
    serveLine(laterUpload, async (migration, line, { peer }: PeerContext) => {
      await destination.receiveLater(peer, migration, line);
      return {};
    }),
  ];
  return { methods, uploads, lines };
}

function noted(connections: ConnectionNote | undefined): { connections?: ConnectionNote } {
  return connections === undefined ? {} : { connections };
}

function notYours(peer: string, what: string): UserError {
  return new UserError({
    code: 'NOT_YOURS',
    message: `${peer} may not decide about ${what}`,
    remedy: "only a process's home node moves it",
    exitStatus: 4,
  });
}
