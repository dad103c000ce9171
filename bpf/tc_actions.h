/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How tc carries a decision out. Each returns the verdict and leaves the reason, to be counted once at the program's end. */
#ifndef HOMEPROXY_TC_ACTIONS_H
#define HOMEPROXY_TC_ACTIONS_H

#include <linux/if_packet.h>
#include "decide.h"
#include "encapsulate.h"
#include "too_big.h"

/* Ethernet, two IPv6 headers of which one has 64 bytes of extensions (or IPv4 with options), and a TCP header. */
#define HEADERS_BYTES (14 + 40 + 40 + 64 + 20)

/*
 * Makes the headers readable in place. What the skb does not hold linearly is pulled (non-linear skbs of GRO, TAP). Only that:
 * the helper makes what it pulls writable too, and for that copies the head of whatever a local sender still holds.
 */
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	__u32 wanted = skb->len;

	if (wanted > HEADERS_BYTES)
		wanted = HEADERS_BYTES;
	if ((void *)(long)skb->data + wanted > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, wanted);
}

/*
 * Segments of TCP may change their size when headers come or go, datagrams must not: without the flag the kernel refuses
 * UDP super-packets, with it TCP's would outgrow the MTU.
 */
static __always_inline __u64 segment_flags(const struct tuple *t)
{
	return t->protocol == IPPROTO_UDP ? BPF_F_ADJ_ROOM_FIXED_GSO : 0;
}

/*
 * The type of what is inside becomes skb->protocol (6.3). Where it is the same no flag is needed, and older kernels know none.
 */
static __always_inline __u64 decapsulation_flags(const struct tuple *inner)
{
	return inner->family == FAMILY_IPV6 ? DECAP_L3_IPV6 : 0;
}

/* Through a copy: a program that writes in place pays for it with every packet that has a clone (bpf_unclone_prologue). */
static __always_inline long tc_take_over_tos(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	const __u32 offset = sizeof(struct ethhdr) + sizeof(struct iphdr);
	struct iphdr ip; /* of IPv6 the first half: the traffic class is in there as well */

	if (d->tos == inner->tos)
		return 0;
	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return -1;
	write_tos(&ip, inner->family, d->tos);
	return bpf_skb_store_bytes(skb, offset, &ip, sizeof(ip), 0);
}

static __always_inline int tc_decapsulate(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	if (tc_take_over_tos(skb, d, inner) ||
	    bpf_skb_adjust_room(skb, -(int)sizeof(struct iphdr), BPF_ADJ_ROOM_MAC,
				decapsulation_flags(inner) | segment_flags(inner)))
		return -1;
	if (inner->family == FAMILY_IPV4)
		return 0;
	__be16 type = bpf_htons(ETH_P_IPV6); /* a TAP's reader goes by it */

	return bpf_skb_store_bytes(skb, __builtin_offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

static __always_inline long store_macs(struct __sk_buff *skb, const __u8 *destination, const __u8 *source, __be16 type)
{
	struct ethhdr eth;

	__builtin_memcpy(eth.h_dest, destination, ETH_ALEN);
	__builtin_memcpy(eth.h_source, source, ETH_ALEN);
	eth.h_proto = type;
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

/*
 * Length of the longest packet that leaves for this skb after encapsulation. A GSO super-packet is not "too big" by its
 * length; for TCP bpf_skb_adjust_room takes the bytes that it adds from gso_size.
 */
static __always_inline __u32 encapsulated_length(const struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	if (!skb->gso_size)
		return inner->total + sizeof(struct iphdr);
	int grows = d->tunnelled || inner->protocol == IPPROTO_UDP;

	return skb->gso_size + inner->headers + (grows ? sizeof(struct iphdr) : 0);
}

static __always_inline int tc_tunnel(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner, enum reason *reason)
{
	const struct binding *binding = d->found.binding;

	if (!binding->next_hop.ifindex) {
		*reason = REASON_NO_ROUTE;
		return TC_ACT_SHOT;
	}
	if (encapsulated_length(skb, d, inner) > binding->next_hop.mtu)
		return answer_too_big(skb, binding, inner, d->tunnelled, reason);
	struct iphdr outer = outer_header(binding, inner, d->tos, d->ttl);
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | segment_flags(inner);

	if ((!d->tunnelled && bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, flags)) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer), BPF_F_INVALIDATE_HASH)) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	if (!binding->next_hop.resolved)
		return bpf_redirect_neigh(binding->next_hop.ifindex, NULL, 0, 0);
	if (store_macs(skb, binding->next_hop.destination, binding->next_hop.source, bpf_htons(ETH_P_IP))) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	return bpf_redirect(binding->next_hop.ifindex, 0);
}

/*
 * Straight to the pod's end of its veth, in the same turn: through the host's end the packet would wait for another. There is
 * no eth_type_trans on that way, so that what the uplink thought of the destination (a TAP: not mine) must be put right.
 */
static __always_inline int tc_deliver(struct __sk_buff *skb, const struct binding *binding, enum reason *reason)
{
	if (store_macs(skb, binding->pod_mac, binding->host_mac, skb->protocol) ||
	    (skb->pkt_type != PACKET_HOST && bpf_skb_change_type(skb, PACKET_HOST))) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	return bpf_redirect_peer(binding->pod_ifindex, 0);
}

/*
 * How many frames the TAP hands out for this skb: it has no segmentation offload, so that the kernel splits a super-packet.
 * By the skb's length: the header of one beyond 64 KiB ("BIG TCP") says 0.
 */
static __always_inline __u64 frames_of(const struct __sk_buff *skb, const struct tuple *t)
{
	__u32 headers = sizeof(struct ethhdr) + t->headers;
	__u32 payload = skb->len > headers ? skb->len - headers : 0;
	__u32 size = skb->gso_size;

	return size && payload > size ? (payload + size - 1) / size : 1;
}

static __always_inline int tc_park(struct __sk_buff *skb, const struct found *found, const struct tuple *t, enum reason *reason)
{
	if (!found->binding->park_ifindex) {
		*reason = REASON_PARK_NO_QUEUE;
		return TC_ACT_SHOT;
	}
	take_places(found, frames_of(skb, t));
	return bpf_redirect(found->binding->park_ifindex, 0);
}

/* To the correspondent, through the kernel's own neighbour table. */
static __always_inline int tc_send(const struct binding *binding)
{
	return bpf_redirect_neigh(binding->uplink_ifindex, NULL, 0, 0);
}

#endif
