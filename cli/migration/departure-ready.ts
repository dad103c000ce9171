import { join } from 'node:path';
import { startDump } from '../checkpoint/criu.js';
import { gather, plannedFreezer } from '../checkpoint/freezer.js';
import { Gate } from '../checkpoint/gate.js';
import { createImageFolder } from '../checkpoint/image-folder.js';
import { PagePipe } from '../checkpoint/page-pipe.js';
import { DepartingMemory } from '../memory/departing.js';
import type { ProcessDescription } from '../process/description.js';
import { isShellJob } from '../process/session-verdicts.js';
import { readSocketDefaults } from '../process/socket-survey.js';
import { sysvFindings } from '../process/sysv.js';
import type { Departure } from './departure.js';
import { usesSysv } from './drain.js';
import type { PrepareSourceRequest } from './messages.js';
import type { DepartureRecord } from './records.js';
import type { Resident } from './residents.js';
import type { ImageRoad } from './sending.js';
import { needsNames } from './shared-objects.js';
import type { Site } from './site.js';
import { staying } from './staying-listeners.js';
import { reached } from './steps.js';

/** What is noted of a process that is about to leave, before anything is done with it. */
export async function newDeparture(
  { node, imageRoot }: Pick<Site, 'node' | 'imageRoot'>,
  request: PrepareSourceRequest,
  resident: Resident | undefined,
  { localPids, description }: { readonly localPids: readonly number[]; readonly description: ProcessDescription },
): Promise<DepartureRecord> {
  const { migration } = request;
  return {
    request,
    home: (resident?.home ?? node).name,
    criu: undefined,
    images: join(imageRoot, `${migration}-dump`),
    freezer:
      resident === undefined
        ? plannedFreezer(localPids[0] ?? 0, `homeproxy-${migration}`)
        : { path: resident.pod.cgroup, origins: [] },
    localPids,
    ports: description.ports.map(({ port }) => port),
    listening: description.listening,
    block: resident?.record.block,
    sysv: await sysvFindings(localPids),
  };
}

/**
 * Everything that can be done while the process runs on, untouched: CRIU then stands at its first hook.
 * @param with.keep writes down what has changed of the record, before it is acted upon
 */
export async function makeReady(
  site: Site,
  road: ImageRoad,
  departure: Departure,
  {
    criu,
    description,
    keep,
  }: { criu: string; description: ProcessDescription; keep(change: Partial<DepartureRecord>): void },
): Promise<void> {
  const { record, resident } = departure;
  const { request, images, localPids } = record;
  const { migration } = request;
  const root = localPids[0] ?? 0;
  await reached('source', 'noted', migration);
  if (resident === undefined) keep({ freezer: gather(root, record.freezer) });
  await reached('source', 'gathered', migration);
  createImageFolder(images);
  const queue = resident?.control.openQueue(); // beside CRIU's start: both wait for other programs
  queue?.catch(() => undefined); // heard when CRIU was started
  const pid = resident === undefined ? root : request.pid;
  const inside =
    resident === undefined ? {} : { podInit: resident.pod.init.pid, ownRoot: resident.pod.root !== undefined };
  departure.pages = PagePipe.create(images);
  departure.gate = Gate.create(images);
  departure.defaults = readSocketDefaults(root);
  departure.memory = DepartingMemory.of(localPids, description);
  departure.session = await startDump({
    criu,
    images,
    pid,
    shellJob: isShellJob(description),
    outsideIpc: usesSysv(record),
    linkRemap: needsNames(localPids),
    skipInFlight: staying(record).size > 0,
    ...inside,
  });
  await reached('source', 'criu-started', migration);
  keep({ criu: departure.session.run.process });
  await queue;
  await reached('source', 'queue-opened', migration);
  await Promise.all([
    departure.session.reached('pre-dump', site.timeouts.prepareMs),
    road.open(request.destination),
    request.ahead === true ? departure.memory?.track(root) : undefined,
  ]);
  await reached('source', 'ready', migration);
}
