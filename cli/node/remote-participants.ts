import type { Config } from '../config/load.js';
import { asHomeproxyError, fromDocument } from '../errors.js';
import { isUnheard } from '../migration/insist.js';
import type { DestinationParticipant, NodeName, SourceParticipant } from '../migration/messages.js';
import { destinationMethods, sourceMethods } from './peer-methods.js';
import type { PeerClient } from './peer-transport.js';

type Timeouts = Config['timeouts'];

/** The source on another node: every call goes there, each with the time limit of its phase. */
export function remoteSource(node: NodeName, client: PeerClient, timeouts: Timeouts): SourceParticipant {
  const { prepareMs, drainMs, freezeMs, transferMs, commitMs, connectMs } = timeouts;
  const { inspect, discard, prepare, carry, progress, sendAhead, drain, freeze, transfer, commit, abort, finish } =
    sourceMethods;
  const ask = named(node);
  return {
    node,
    inspect: (request) => ask(client.call(inspect, request, { timeoutMs: prepareMs })),
    discard: async (request) => void (await ask(client.call(discard, request, { timeoutMs: prepareMs }))),
    prepare: async (request) => void (await ask(client.call(prepare, request, { timeoutMs: prepareMs }))),
    carry: (request) => ask(client.call(carry, request, { timeoutMs: 2 * transferMs + connectMs })),
    sendAhead: (request) => ask(client.call(sendAhead, request, { timeoutMs: transferMs + connectMs })),
    progress: (request) => ask(client.call(progress, request, { timeoutMs: connectMs })),
    drain: (request) => ask(client.call(drain, request, { timeoutMs: drainMs + connectMs })),
    freeze: async (request) => {
      const { notKept } = await ask(client.call(freeze, request, { timeoutMs: freezeMs + transferMs + connectMs }));
      return { accepted: [], notKept }; // its listeners are its own there
    },
    transfer: (request) => ask(client.call(transfer, request, { timeoutMs: transferMs })),
    commit: (request) => ask(client.call(commit, request, { timeoutMs: commitMs })),
    abort: async (request) => void (await ask(client.call(abort, request, { timeoutMs: commitMs }))),
    finish: async (request) => void (await ask(client.call(finish, request, { timeoutMs: commitMs }))),
  };
}

/** The destination on another node. */
export function remoteDestination(node: NodeName, client: PeerClient, timeouts: Timeouts): DestinationParticipant {
  const { prepareMs, restoreMs, commitMs, connectMs } = timeouts;
  const { fence, holding, assess, prepare, restore, commit, finish, abort } = destinationMethods;
  const ask = named(node);
  return {
    node,
    fence: async (request) => void (await ask(client.call(fence, request, { timeoutMs: commitMs }))),
    holding: () => ask(client.call(holding, {}, { timeoutMs: prepareMs })),
    assess: (request) => ask(client.call(assess, request, { timeoutMs: prepareMs })),
    prepare: (request) => ask(client.call(prepare, request, { timeoutMs: prepareMs })),
    restore: (request) => ask(client.call(restore, request, { timeoutMs: restoreMs + connectMs })),
    commit: async (request) => void (await ask(client.call(commit, request, { timeoutMs: commitMs }))),
    finish: async (request) => void (await ask(client.call(finish, request, { timeoutMs: commitMs }))),
    abort: async (request) => void (await ask(client.call(abort, request, { timeoutMs: commitMs }))),
  };
}

/** What another node answers is about that node ("there is no CRIU"), so its name goes before it. */
function named(node: NodeName): <Result>(answer: Promise<Result>) => Promise<Result> {
  return async (answer) => {
    try {
      return await answer;
    } catch (thrown) {
      const document = asHomeproxyError(thrown).toDocument();
      if (isUnheard(document.code)) throw thrown; // no answer: it says whom it could not reach
      throw fromDocument({ ...document, message: `${node.name}: ${document.message}` });
    }
  };
}
