/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_DECIDE_H
#define HOMEPROXY_DECIDE_H

#include "congestion.h"
#include "encapsulate.h"
#include "icmp_error.h"
#include "loopback.h"

enum step {
	STEP_PASS,    /* to the local stack, as it is (decapsulated, if it came tunnelled for a process that is at home) */
	STEP_DROP,
	STEP_PARK,
	STEP_TUNNEL,
	STEP_DELIVER,
	STEP_REVERSE, /* to the correspondent, in the name of a process that is away */
	STEP_LOOP_BACK, /* to the local stack, which takes it from `lo` alone: see tc_loop_back */
	STEP_HEED,    /* a router's word about our tunnel's packets: for tc */
};

/* What shall become of one packet. Both hooks decide by the same code; only the carrying out differs. */
struct decision {
	enum step step;
	enum reason reason;
	__u8 outer;     /* bytes of the outer header that the packet came with, see header_bytes; 0: it did not come tunnelled */
	__u8 tos;       /* what the inner packet's shall be when it leaves the tunnel */
	__u8 ttl;       /* of the outer header, if it goes (on) through a tunnel */
	struct found found;
};

static __always_inline struct decision passed(enum reason reason)
{
	return (struct decision){ .step = STEP_PASS, .reason = reason };
}

static __always_inline int must_wait(const struct found *found, const struct tuple *inner)
{
	const struct binding *binding = found->binding;

	if (binding->action == ACTION_PARK || (binding->hold && inner->syn == SYN_START) ||
	    (binding->hold == HOLD_DATAGRAMS && inner->protocol != IPPROTO_TCP))
		return 1;
	if (!binding->draining)
		return 0;
	struct park_state *state = bpf_map_lookup_elem(&park_states, &found->id);
	struct park_release *release = bpf_map_lookup_elem(&park_releases, &found->id);

	return state && state->parked != (release ? release->replayed : 0);
}

static __always_inline struct decision act(struct found found, const struct tuple *inner, __u8 outer, int waits)
{
	struct decision decision = { .found = found, .outer = outer, .tos = inner->tos, .ttl = OUTER_TTL };

	if (found.binding->action == ACTION_DROP) {
		decision.step = STEP_DROP;
		decision.reason = REASON_FENCED;
	} else if (waits) {
		decision.step = STEP_PARK;
		decision.reason = REASON_PARKED;
	} else if (found.binding->action == ACTION_TUNNEL) {
		decision.step = STEP_TUNNEL;
		decision.reason = REASON_TUNNELLED;
	} else if (found.binding->action == ACTION_DELIVER) {
		decision.step = STEP_DELIVER;
		decision.reason = REASON_DELIVERED;
	} else {
		decision.step = STEP_PASS;
		decision.reason = REASON_AT_HOME;
	}
	return decision;
}

/* What its way through the tunnel did to a packet: congestion that it met, and one hop less to go. */
static __always_inline void after_tunnel(struct decision *decision, const struct tuple *inner, __u8 outer_tos, __u8 outer_ttl)
{
	if (decision->step == STEP_DROP)
		return;
	int tos = tos_after_tunnel(inner->tos, outer_tos);

	if (tos < 0) {
		decision->step = STEP_DROP;
		decision->reason = REASON_CONGESTED;
	} else if (decision->step == STEP_TUNNEL && outer_ttl <= 1) {
		decision->step = STEP_DROP;
		decision->reason = REASON_LOOPED;
	} else {
		decision->tos = tos;
		decision->ttl = outer_ttl - 1;
	}
}

static __always_inline int is_own(const struct address *address)
{
	struct address first = node_address;
	struct address second = other_address;

	return same_address(address, &first) || same_address(address, &second);
}

/* Bytes of the outer header when this is a tunnel's packet for this node; 0 when it is not. */
static __always_inline __u32 tunnel_header(const struct tuple *t)
{
	int udp = t->protocol == IPPROTO_UDP && t->destination_port == tunnel_port && tunnel_port;

	if (!udp && t->protocol != IPPROTO_IPIP && t->protocol != IPPROTO_IPV6)
		return 0;
	return is_own(&t->destination) ? header_bytes(t->family, udp) : 0;
}

/* Our own nodes send neither options, nor extension headers, nor a UDP checksum: another outer header is not theirs. */
static __always_inline int is_ours(void *data, void *end, const struct tuple *t, __u32 outer)
{
	struct udphdr *udp = data + sizeof(struct ethhdr) + outer - sizeof(struct udphdr);

	if (t->headers != outer || t->total < outer)
		return 0;
	return t->protocol != IPPROTO_UDP || ((void *)(udp + 1) <= end && !udp->check);
}

/* Whether the outer header, which is still in the frame, has that source. Read again: a copy would not fit on the stack. */
static __always_inline int is_from(void *data, void *end, __u8 outer, const struct address *address)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct ipv6hdr *ip6 = data + sizeof(struct ethhdr);

	if (outer < sizeof(*ip6))
		return (void *)(ip + 1) <= end && is_ipv4(address) && ip->saddr == address->word[3];
	return (void *)(ip6 + 1) <= end && same_address((struct address *)&ip6->saddr, address);
}

/*
 * A packet out of a tunnel that is for nobody here: what a process says from where it is away, to be sent on from its home
 * (RFC 3024, reverse tunnelling). It must come from the very node to which we tunnel what is for that process, or shall as
 * soon as the copy there runs: nobody else can speak in its name.
 */
static __always_inline struct decision reversed(void *data, void *end, const struct tuple *inner, __u8 outer, int in_tc)
{
	struct found found = find_speaker(data, end, inner);

	if (!found.binding || (found.binding->action != ACTION_TUNNEL && found.binding->action != ACTION_PARK) ||
	    !is_from(data, end, outer, &found.binding->care_of))
		return passed(reason_of_nobody(inner, REASON_TUNNEL_NO_BINDING));
	return (struct decision){
		.step = in_tc && (inner->loopback || is_local(&inner->destination)) ? STEP_LOOP_BACK : STEP_REVERSE,
		.reason = REASON_REVERSED,
		.outer = outer,
		.tos = inner->tos,
		.ttl = OUTER_TTL,
		.found = found,
	};
}

/*
 * A packet out of a tunnel, whose outer header `t` describes; on return `t` is the packet inside. It must fill the tunnel's
 * packet: when a receiver has merged several (UDP GRO), what is inside is not one packet.
 */
static __always_inline struct decision decide_tunnelled(void *data, void *end, __u32 length, struct tuple *t, __u32 outer,
							int in_tc)
{
	struct node_entry *node = bpf_map_lookup_elem(&nodes, &t->source);

	if (!node)
		return passed(REASON_TUNNEL_UNKNOWN_NODE);
	if (!is_ours(data, end, t, outer))
		return passed(REASON_MALFORMED);
	__u8 outer_tos = t->tos;
	__u8 outer_ttl = t->ttl;
	__u8 inner_family = t->protocol == IPPROTO_IPV6 ? FAMILY_IPV6 : t->protocol == IPPROTO_IPIP ? FAMILY_IPV4 : 0;
	__u32 inner_total = t->total - outer;

	switch (parse_ip(data, end, sizeof(struct ethhdr) + outer, t, 0)) {
	case PARSED_OTHER:
		return passed(REASON_NOT_PARSED);
	case PARSED_MALFORMED:
		return passed(REASON_MALFORMED);
	case PARSED:
		break;
	}
	if ((inner_family && t->family != inner_family) || t->total != inner_total || !is_whole(t, length))
		return passed(REASON_MALFORMED);
	localize(t, &node->address);
	struct found found = find_hearer(data, end, t);
	struct decision decision;

	if (!in_tc && !found.binding && t->loopback)
		return passed(REASON_SLOW_PATH); /* most often it goes to `lo`, which tc alone can do */
	/*
	 * Loopback addresses may be this node's own as well: among processes of this home of which the sender is away, or from where
	 * the addressee was until now. Both at once only where two nodes are each home to a guest of the other, who have the same ports.
	 */
	if (!found.binding && t->loopback) {
		name_loopback(t, &node_address);
		found = find_by_destination(t);
	}
	if (found.binding) {
		decision = act(found, t, outer, must_wait(&found, t));
		if (decision.step == STEP_PASS && (t->loopback || is_local(&t->source)))
			decision.step = STEP_LOOP_BACK;
	} else {
		decision = reversed(data, end, t, outer, in_tc);
	}
	if (!decision.found.binding)
		return decision;
	after_tunnel(&decision, t, outer_tos, outer_ttl);
	return decision;
}

/*
 * A packet that arrived on an uplink, in a frame of `length` bytes. `t`, zero on entry, is the packet on return; when that is
 * a tunnel's, from a node that we know, the one inside.
 */
static __always_inline struct decision decide_arrival(void *data, void *end, __u32 length, struct tuple *t, int in_tc)
{
	switch (parse_frame(data, end, t)) {
	case PARSED_OTHER:
		/*
		 * A tag says that the frame is of a network that has an interface of its own (eth0.100), where it arrives
		 * without the tag and is judged: the same addresses here may be somebody else's. VLAN id 0 is no network.
		 */
		return passed(t->tag == TAG_VLAN ? REASON_TAGGED : t->tag ? REASON_SLOW_PATH : REASON_NOT_PARSED);
	case PARSED_MALFORMED:
		return passed(REASON_MALFORMED);
	case PARSED:
		break;
	}
	if (!is_whole(t, length))
		return passed(REASON_MALFORMED);
	__u32 outer = t->fragment ? 0 : tunnel_header(t);

	if (outer)
		return decide_tunnelled(data, end, length, t, outer, in_tc);
	struct found found = find_hearer(data, end, t);

	if (found.tunnel_too_big && is_own(&t->destination))
		return (struct decision){ .step = STEP_HEED, .reason = REASON_SLOW_PATH };
	if (!found.binding)
		return passed(reason_of_nobody(t, REASON_NOT_OURS));
	return act(found, t, 0, must_wait(&found, t));
}

/* Takes places in the queue for so many frames. The counts order packets: see binding.draining. */
static __always_inline void take_places(const struct found *found, __u64 frames)
{
	struct park_state *state = bpf_map_lookup_elem(&park_states, &found->id);

	if (state)
		__sync_fetch_and_add(&state->parked, frames);
}

#endif
