/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a departed process says: straight to its correspondent or, where the network of its care-of host drops foreign sources,
 * back through its home (RFC 3024, reverse tunnelling).
 *
 *   at the care-of host                              at home
 *   +---------------------------+------------------+         +------------------+
 *   | IPv4, care-of -> home     | home -> remote   |  ---->  | home -> remote   |
 *   | as in encapsulate.h       | as it was said   |         |                  |
 *   +---------------------------+------------------+         +------------------+
 */
#ifndef HOMEPROXY_REVERSE_H
#define HOMEPROXY_REVERSE_H

#include "homeward.h"
#include "tc_actions.h"
#include "way_out.h"

/* Lets what comes out of a reverse tunnel pass hp_egress, which would take it for this node speaking for the process. */
#define MARK_REVERSED 0x68707276
/* What a pod here says to this node, on its way into hp_ingress: the frame has the pod's addresses. */
#define MARK_HANDED_IN 0x68706869

/*
 * Into the tunnel to the home. The pod's MTU leaves room for the outer header; where the way has become narrower since, the
 * process is told, as a router would.
 */
static __always_inline int tc_reverse(struct __sk_buff *skb, const struct found *found, struct tuple *t, enum reason *reason)
{
	struct decision d = { .step = STEP_TUNNEL, .tos = t->tos, .ttl = OUTER_TTL, .found = *found };

	*reason = REASON_REVERSED;
	int verdict = tc_tunnel(skb, &d, t, 1, reason);

	return *reason == REASON_TOO_BIG ? bpf_redirect(found->binding->pod_ifindex, 0) : verdict;
}

/*
 * To a correspondent that is this very node: as if it had come by the uplink, since the process's address is reached there and
 * the strictest source filter (rp_filter) takes it from nowhere else. hp_ingress sees it next.
 */
static __always_inline int tc_hand_in(struct __sk_buff *skb, const struct binding *binding)
{
	skb->mark = MARK_HANDED_IN;
	return bpf_redirect(binding->uplink_ifindex, BPF_F_INGRESS);
}

/* What the process says while it may. */
static __always_inline int tc_speak(struct __sk_buff *skb, const struct found *found, enum parsed parsed, struct tuple *t,
				    enum reason *reason)
{
	if (parsed == PARSED && !is_loopback(&t->destination) && is_local(&t->destination)) {
		*reason = REASON_SENT;
		return tc_hand_in(skb, found->binding);
	}
	if (found->binding->egress == EGRESS_TUNNEL || is_homeward(skb)) {
		/* Its home could not tell who says it, or where it ends. */
		*reason = parsed == PARSED ? REASON_MALFORMED : REASON_NOT_PARSED;
		return parsed == PARSED && is_whole(t, skb->len) ? tc_reverse(skb, found, t, reason) : TC_ACT_SHOT;
	}
	*reason = REASON_SENT;
	if (offers_mss(t) && is_whole(t, skb->len)) /* what answers it will come through a tunnel */
		tc_clamp_mss(skb, t, mtu_of_arrivals(skb, found->binding));
	return tc_send(found->binding);
}

/* At home: out of the tunnel, and on to the correspondent. */
static __always_inline int tc_send_reversed(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner,
					    enum reason *reason)
{
	const struct binding *binding = d->found.binding;

	if (offers_mss(inner))
		tc_clamp_mss(skb, inner, mtu_of_path(binding, ANY_LENGTH) - overhead(binding));
	if (tc_decapsulate(skb, d, inner)) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	skb->mark = MARK_REVERSED;
	return tc_send(binding);
}

#endif
