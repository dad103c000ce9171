import { setImmediate as turn } from 'node:timers/promises';
import { accepted, type Course } from './course.js';
import type { Site } from './site.js';
import type { Twins } from './twins.js';

/**
 * Lets both ends do all that needs no frozen process, and this home what it has to do for them.
 * @throws what any of them throws, when all have ended. {UserError} also `REFUSED`, `NO_POST_COPY`
 */
export async function prepareEnds(course: Course, { node }: Site, twins: Twins): Promise<void> {
  const { migration, twin, source, destination, epoch, description, resetClosing } = course;
  const { carry, cgroup, block } = twin.record;
  const request = { migration, twin: twin.id, epoch };
  const room = destination
    .prepare({
      ...request,
      home: node,
      source: source.node,
      description,
      cgroup,
      block,
      carry: carry !== undefined,
      later: course.limits.later,
    })
    .then((answer) => accepted(course, answer));
  // What is to be done here takes this thread for some 20 ms: the other end's request is on its way before.
  const here = turn();
  const made = await course.unlessStopped(
    Promise.allSettled([
      room,
      here.then(() =>
        source.prepare({
          ...request,
          pid: description.homePid,
          destination: destination.node,
          carry,
          resetClosing,
          ahead: course.copyAhead !== false && carry === undefined, // files may take minutes: it is not tracked meanwhile
        }),
      ),
      source.node.name === node.name ? here.then(() => twins.watchLoopback()) : undefined,
      twin.control.openQueue(),
      destination.node.name === node.name ? undefined : twin.control.resolve(destination.node),
    ]),
  );
  for (const result of made) if (result.status === 'rejected') throw result.reason;
}
