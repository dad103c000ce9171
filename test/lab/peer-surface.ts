import type { Method, Upload } from '../../cli/node/method.js';
import {
  aheadUpload,
  destinationMethods,
  filesOffer,
  filesUpload,
  imagesUpload,
  memoryUpload,
  migrationSteps,
  sourceMethods,
  whereabouts,
} from '../../cli/node/peer-methods.js';
import { ping } from '../../cli/node/peer-transport.js';
import { drainMoveMethod, evacuateMethod, hostFactsMethod } from '../../cli/node/policy-methods.js';

/** What nodes may ask each other, but for the mark of a drain: whoever sets that changes what the others do. */
export const PEER_METHODS: readonly Method[] = [
  ...Object.values(sourceMethods),
  ...Object.values(destinationMethods),
  whereabouts,
  migrationSteps,
  ping,
  hostFactsMethod,
  drainMoveMethod,
  evacuateMethod,
];
export const PEER_UPLOADS: readonly Upload[] = [imagesUpload, aheadUpload, filesOffer, filesUpload, memoryUpload];
