/** How a test and a daemon that stops at steps agree, in the node of the daemon. */
export const FAULT_FOLDER = '/run/lab/fault';
/** The step at which it shall stop, once. */
export const STOP_AT = `${FAULT_FOLDER}/stop-at`;
/** It stands there. */
export const ARRIVED = `${FAULT_FOLDER}/arrived`;
/** It may go on. */
export const GO = `${FAULT_FOLDER}/go`;
