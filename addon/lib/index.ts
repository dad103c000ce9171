// SPDX-License-Identifier: Apache-2.0
export { CHANGE_ROW, runBatch } from './batch.js';
export { BpfError } from './bpf-error.js';
export { Btf, type Variable } from './btf.js';
export { htons, ntohs } from './integer.js';
export { LINE_SECRET_BYTES, Line } from './line.js';
export { BpfLink } from './link.js';
export { BpfMap } from './map.js';
export { cloneMount, criuHooksLibrary, inMountNamespace, type MountStep, MS, openBeneath } from './mounts.js';
export {
  decodeNetlink,
  encodeNetlink,
  netlinkAttributes,
  openNetlink,
  openSocketDiagnostics,
  receiveNetlink,
  sendNetlink,
} from './netlink.js';
export { tcAttach, tcDetach, tcQuery, tcRemoveClsact, tcxQuery, xdpQuery } from './network.js';
export { BpfObject } from './object.js';
export { BpfProgram, programInfo, programsEnded } from './program.js';
export { RingBuffer } from './ring-buffer.js';
export { type Opened, sameFiles } from './same-files.js';
export { type SurveyedStream, surveyStreams } from './streams.js';
export { StructCodec } from './struct-codec.js';
export {
  type Answer,
  LONGEST_ANSWER,
  newSocket,
  SOCKET_KINDS,
  type SocketKind,
  type SocketQuestion,
  type SurveyedSocket,
  setSocketsOption,
  surveySockets,
} from './survey.js';
export {
  closeOnExec,
  flock,
  getsockname,
  getsockopt,
  getxattr,
  interfaceIndex,
  makeFifo,
  memfdSeals,
  pidfdGetfd,
  pidfdOpen,
  pidfdSendSignal,
  pollReadable,
  setns,
  setPipeSize,
  setsockopt,
  tcpRepair,
  tcpRepairState,
  unreadBytes,
  urgentMark,
  withNetworkNamespace,
} from './system.js';
export { openTap, readFrame, setTapPersist, writeFrame } from './tap.js';
export {
  criuMemoryLibrary,
  loadMappingFlags,
  mappingFlags,
  pagerProgram,
  scanLast,
  scanWritten,
  trackWrites,
} from './tracker.js';
export type * from './types.js';
