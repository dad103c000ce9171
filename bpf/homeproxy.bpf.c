/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The datapath of a node. Every machine runs the same programs; home and care-of host are roles of bindings.
 *
 *   hp_xdp      uplink, XDP: the fast path. What it cannot finish for sure it passes to
 *   hp_ingress  uplink, tc ingress: the same decisions on any driver, through the kernel's own neighbour table
 *   hp_egress   uplink, tc egress: guard, so that nobody here speaks for a departed process
 *   hp_pod      host end of a pod's veth, tc ingress: what the process sends
 *   hp_replay   TAP of a twin, tc ingress: parked frames that are let go
 */
#include "tc.h"
#include "xdp.h"

char _license[] SEC("license") = "Dual BSD/GPL";
