import { startRestore } from '../checkpoint/criu.js';
import { createImageFolder, reserveRoom } from '../checkpoint/image-folder.js';
import { ArrivingMemory } from '../memory/arriving.js';
import { isShellJob } from '../process/session-verdicts.js';
import { Cgroup } from '../system/cgroup.js';
import { type Arrival, defaultsFor, limitOf, roomOf, surroundingsOf } from './arrival.js';
import { arrivingFiles } from './carrying.js';
import { leftListeners } from './home-listeners.js';
import { makeRoom } from './make-room.js';
import type { ArrivalRecord } from './records.js';
import type { Site } from './site.js';
import { reached } from './steps.js';

/**
 * Everything that a process which is to come needs here: a place, and a CRIU that waits for its images.
 * @param keep writes down what has changed of the record, before it is acted upon
 */
export async function makeReady(
  site: Site,
  arrival: Arrival,
  criu: string,
  keep: (change: Partial<ArrivalRecord>) => void,
): Promise<void> {
  const { request, images, nursery } = arrival.record;
  const { migration } = request;
  await reached('destination', 'noted', migration);
  createImageFolder(images);
  await reached('destination', 'folder-made', migration);
  if (request.home.name === site.node.name) new Cgroup(nursery.path).create();
  else {
    arrival.resident = await makeRoom(site, request);
    keep({ nursery: { path: arrival.resident.pod.cgroup, origins: [] } });
  }
  if (request.carry === true) arrival.files = arrivingFiles(site, arrival, keep);
  await reached('destination', 'room-made', migration);
  arrival.defaults = defaultsFor(arrival);
  arrival.memory = await ArrivingMemory.prepare(images, request.description, request.later);
  const memory = arrival.memory === undefined ? {} : { memoryLimit: limitOf(request) };
  const shellJob = isShellJob(request.description);
  const listenersHere = arrival.resident === undefined && leftListeners(request.description);
  const session = await startRestore({
    criu,
    images,
    shellJob,
    listenersHere,
    ...surroundingsOf(arrival),
    ...memory,
  });
  arrival.session = session;
  if (arrival.memory === undefined) await reserveRoom(images, roomOf(request));
  await reached('destination', 'criu-started', migration);
  keep({ criu: session.run.process });
}
