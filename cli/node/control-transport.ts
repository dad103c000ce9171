/** How the commands talk to the daemon of their machine: HTTP over a unix socket, methods described once for both ends. */
export type { ControlCallOptions } from './control-client.js';
export { callControl, streamControl } from './control-client.js';
export type { ControlContext, ControlServer, ControlServerOptions } from './control-server.js';
export { createControlServer } from './control-server.js';
export type { EventMethodHandler, MethodHandler } from './method.js';
export { defineEventMethod, defineMethod, serve, serveEvents } from './method.js';
