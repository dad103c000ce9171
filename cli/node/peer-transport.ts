/** How nodes talk to each other: HTTP over mutual TLS 1.3, methods described once for both ends. */
export type { LineHandler, MethodHandler, UploadHandler } from './method.js';
export { defineMethod, defineUpload, serve, serveLine, serveUpload } from './method.js';
export type { CallOptions, PeerClientOptions } from './peer-client.js';
export { PeerClient } from './peer-client.js';
export type { PeerContext, PeerServer, PeerServerOptions, TransportLogger } from './peer-server.js';
export { createPeerServer, ping } from './peer-server.js';
