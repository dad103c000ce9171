/** Who plays in the fuzz run, beside the cast of ../packet/scene.ts. */

/** A port whose flows are claimed one by one. */
export const SHARED_PORT = 8080;
/** The correspondent's, of a flow on the shared port of which the fast paths have no copy. */
export const UNCOPIED_PORT = 40_001;
/** A port that is claimed for a binding which does not exist. */
export const STALE_PORT = 9000;
/** Where a node takes tunnelled packets by UDP (GUE, draft-ietf-intarea-gue). */
export const TUNNEL_PORT = 6080;
/** The binding of the flows on the shared port. */
export const SHARED_BINDING = 8;
export const STALE_BINDING = 99;
