/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The datapath of a node. Every machine runs the same programs; home and care-of host are roles of bindings.
 *
 *   hp_xdp      uplink, XDP: the fast path. What it cannot finish for sure it passes to
 *   hp_ingress  uplink, tc ingress: the same decisions on any driver, through the kernel's own neighbour table
 *   hp_egress   uplink, tc egress: guard, so that nobody here speaks for a departed process; what this node says to a resident
 *   hp_loopback `lo`, tc egress: the same among processes of this node
 *   hp_pod      host end of a pod's veth, tc ingress: what the process sends
 *   hp_replay   TAP of a twin, tc ingress: parked frames that are let go
 *   hp_inside   a pod's `lo`, tc egress: what the process says to its home node
 *   hp_entry    a pod's end of its veth, tc ingress: what its home node says to its loopback addresses
 */
#include "inside.h"
#include "tc.h"
#include "xdp.h"

char _license[] SEC("license") = "Dual BSD/GPL";
