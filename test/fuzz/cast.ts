/** Who plays in the fuzz run, beside the cast of ../packet/scene.ts. */
import { Protocol } from '../packet/packets.js';
import { CLIENT_PORT, CORRESPONDENT, HOME } from '../packet/scene.js';

/** A port whose flows are claimed one by one. */
export const SHARED_PORT = 8080;
/** The correspondent's, of a flow on the shared port of which the fast paths have no copy. */
export const UNCOPIED_PORT = 40_001;
/** The correspondent's, of a flow on the shared port whose copy is the last on its line: see DECOYS. */
export const CROWDED_PORT = 40_002;
/** A port that is claimed for a binding which does not exist. */
export const STALE_PORT = 9000;
/** Where a node takes tunnelled packets by UDP (GUE, draft-ietf-intarea-gue). */
export const TUNNEL_PORT = 6080;
/** Where somebody listens in the namespace that the programs run in, whatever its address: in a pod, then. By protocol. */
export const LISTENING_PORTS: Readonly<Record<number, number>> = { [Protocol.tcp]: 7070, [Protocol.udp]: 7071 };
/** The binding of the flows on the shared port. */
export const SHARED_BINDING = 8;
/** Somebody else's, who has flows that nearly are the other's. */
export const DECOY_BINDING = 9;
export const STALE_BINDING = 99;
/** Another address of the service's home. */
export const SECOND_HOME = '10.0.0.22';
/** Another port of it whose flows are claimed one by one. */
export const DECOY_PORT = 1045;
export const OTHER_CORRESPONDENT = '10.25.168.51';

/** A connection that belongs to a binding by all that names it. */
export interface CastFlow {
  readonly binding: number;
  readonly protocol: number;
  readonly local: readonly [address: string, port: number];
  readonly remote: readonly [address: string, port: number];
}

const flow = (fields: Partial<CastFlow> & Pick<CastFlow, 'remote'>): CastFlow => ({
  binding: SHARED_BINDING,
  protocol: Protocol.tcp,
  local: [HOME, SHARED_PORT],
  ...fields,
});
const decoy = (fields: Partial<CastFlow> & Pick<CastFlow, 'remote'>): CastFlow =>
  flow({ ...fields, binding: DECOY_BINDING });

/** Two flows, each the last on its line of `fast_flows`: what is there before them differs in less and less. */
export const LINES: readonly { readonly flow: CastFlow; readonly decoys: readonly CastFlow[] }[] = [
  {
    flow: flow({ remote: [CORRESPONDENT, CLIENT_PORT] }),
    decoys: [
      decoy({ remote: [CORRESPONDENT, CLIENT_PORT], local: [SECOND_HOME, SHARED_PORT] }),
      decoy({ remote: [CORRESPONDENT, CLIENT_PORT], protocol: Protocol.udp }),
    ],
  },
  {
    flow: flow({ remote: [CORRESPONDENT, CROWDED_PORT] }),
    // By what they differ in, the line was searched for them. None differs in the local port alone: it says which line of all.
    decoys: [
      decoy({ remote: [OTHER_CORRESPONDENT, CROWDED_PORT] }),
      decoy({ remote: [CORRESPONDENT, 48_428] }),
      decoy({ remote: [CORRESPONDENT, 7608], local: [HOME, DECOY_PORT] }),
    ],
  },
];

/** Those of which there is no copy: one was, of somebody else's, and has been taken away. */
export const UNCOPIED: readonly CastFlow[] = [Protocol.tcp, Protocol.udp].map((protocol) =>
  flow({ remote: [CORRESPONDENT, UNCOPIED_PORT], protocol }),
);

/** All exact flows, in the order in which they are claimed. */
export const COPIED: readonly CastFlow[] = LINES.flatMap(({ flow: last, decoys }) => [...decoys, last]);
