/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How tc carries a decision out. Each returns the verdict and leaves the reason, to be counted once at the program's end. */
#ifndef HOMEPROXY_TC_ACTIONS_H
#define HOMEPROXY_TC_ACTIONS_H

#include "clamp_mss.h"
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

/* skb->protocol follows to the other family (6.3). Where it is the same no flag is needed, and older kernels know none. */
static __always_inline __u64 decapsulation_flags(const struct __sk_buff *skb, const struct tuple *inner)
{
	if (skb->protocol == type_of(inner->family))
		return 0;
	return inner->family == FAMILY_IPV6 ? DECAP_L3_IPV6 : DECAP_L3_IPV4;
}

/* Not by a write into the packet: for that the verifier has every packet copied that somebody else holds as well. */
static __always_inline long tc_take_over_tos(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	__u32 offset = sizeof(struct ethhdr) + d->outer;
	struct iphdr ip;

	if (d->tos == inner->tos)
		return 0;
	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return -1;
	write_tos(&ip, inner->family, d->tos);
	return bpf_skb_store_bytes(skb, offset, &ip, sizeof(ip), 0);
}

/* Removes the outer header. 0: done. */
static __always_inline int tc_strip(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	__u64 flags = decapsulation_flags(skb, inner) | segment_flags(inner);
	__be16 type = type_of(inner->family);

	if (bpf_skb_adjust_room(skb, -(int)d->outer, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return bpf_skb_store_bytes(skb, __builtin_offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

/* The packet leaves the tunnel. 0: done. */
static __always_inline int tc_decapsulate(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	return tc_take_over_tos(skb, d, inner) || tc_strip(skb, d, inner);
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
 * length; for TCP bpf_skb_adjust_room takes the bytes that it adds from gso_size, and gives it those that it removes.
 */
static __always_inline __u32 encapsulated_length(const struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	__u32 more = overhead(d->found.binding);

	if (!skb->gso_size)
		return inner->total + more;
	if (d->outer == more || inner->protocol == IPPROTO_UDP)
		return skb->gso_size + inner->headers + more;
	return skb->gso_size + d->outer + inner->headers;
}

static __always_inline __u64 encapsulation_flags(const struct binding *binding, const struct tuple *inner)
{
	__u64 flags = outer_family(binding) == FAMILY_IPV6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;

	if (binding->encapsulation == ENCAPSULATION_UDP)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	return flags | segment_flags(inner);
}

static __always_inline long store_outer_ipv4(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;
	struct {
		struct iphdr ip;
		struct udphdr udp;
	} outer = { .ip = outer_ipv4(binding, inner, d->tos, d->ttl) };

	if (binding->encapsulation != ENCAPSULATION_UDP)
		return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer.ip), BPF_F_INVALIDATE_HASH);
	outer.udp = outer_udp(binding, inner);
	return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer), BPF_F_INVALIDATE_HASH);
}

static __always_inline long store_outer_ipv6(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;
	struct {
		struct ipv6hdr ip;
		struct udphdr udp;
	} outer = { .ip = outer_ipv6(binding, inner, d->tos, d->ttl) };

	if (binding->encapsulation != ENCAPSULATION_UDP)
		return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer.ip), BPF_F_INVALIDATE_HASH);
	outer.udp = outer_udp(binding, inner);
	return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer), BPF_F_INVALIDATE_HASH);
}

/*
 * Puts the binding's outer header in place of the one that the packet came with, if any; one of the same kind is overwritten.
 * The kernel refuses to wrap a super-packet that it has merged from tunnelled packets (EALREADY): such a one can go on only
 * in a tunnel of the same kind.
 */
static __always_inline int tc_encapsulate(struct __sk_buff *skb, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;
	int more = overhead(binding);

	if (d->outer != more) {
		if (d->outer && tc_strip(skb, d, inner))
			return -1;
		if (bpf_skb_adjust_room(skb, more, BPF_ADJ_ROOM_MAC, encapsulation_flags(binding, inner)))
			return -1;
	}
	return outer_family(binding) == FAMILY_IPV6 ? store_outer_ipv6(skb, d, inner) : store_outer_ipv4(skb, d, inner);
}

#include "split.h"

/* `both_ways`: what answers the packet comes through a tunnel as well, so the MSS that a SYN offers must leave room for that. */
static __always_inline int tc_tunnel(struct __sk_buff *skb, struct decision *d, struct tuple *inner, int both_ways,
				     enum reason *reason)
{
	const struct binding *binding = d->found.binding;

	if (!binding->next_hop.ifindex) {
		*reason = REASON_NO_ROUTE;
		return TC_ACT_SHOT;
	}
	__u32 length = encapsulated_length(skb, d, inner);
	__u32 mtu = mtu_of_path(binding, length);

	if (length > mtu)
		return inner->df ? answer_too_big(skb, binding, inner, mtu - overhead(binding), reason)
				 : tc_split(skb, d, inner, mtu - overhead(binding), reason);
	if (both_ways && offers_mss(inner))
		tc_clamp_mss(skb, inner, mtu_of_path(binding, ANY_LENGTH) - overhead(binding));
	if (tc_encapsulate(skb, d, inner)) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	if (!binding->next_hop.resolved)
		return bpf_redirect_neigh(binding->next_hop.ifindex, NULL, 0, 0);
	if (store_macs(skb, binding->next_hop.destination, binding->next_hop.source, type_of(outer_family(binding)))) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	return bpf_redirect(binding->next_hop.ifindex, 0);
}

static __always_inline int tc_deliver(struct __sk_buff *skb, const struct binding *binding, enum reason *reason)
{
	if (store_macs(skb, binding->pod_mac, binding->host_mac, skb->protocol)) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	return bpf_redirect(binding->pod_ifindex, 0);
}

/*
 * The same at the ingress of a device, where the packet can go on at the other end of the pod's link without waiting in a queue
 * between. What came in UDP goes through the link: there the kernel merges segments (GRO), which it could not in that tunnel.
 */
static __always_inline int tc_hand_over(struct __sk_buff *skb, const struct decision *d, enum reason *reason)
{
	const struct binding *binding = d->found.binding;
	int verdict = tc_deliver(skb, binding, reason);
	int udp = d->outer == header_bytes(FAMILY_IPV4, 1) || d->outer == header_bytes(FAMILY_IPV6, 1);

	return verdict == TC_ACT_SHOT || udp ? verdict : bpf_redirect_peer(binding->pod_ifindex, 0);
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

/* The longest packet that a tunnel to this node carries, if the way has the MTU of the interface here. 0: not known. */
static __always_inline __u32 mtu_of_arrivals(struct __sk_buff *skb, const struct binding *binding)
{
	__u32 mtu = 0;
	struct address own = node_address;

	if (bpf_check_mtu(skb, binding->uplink_ifindex, &mtu, 0, 0) < 0)
		return 0;
	return mtu - header_bytes(is_ipv4(&own) ? FAMILY_IPV4 : FAMILY_IPV6, tunnel_port != 0);
}

#endif
