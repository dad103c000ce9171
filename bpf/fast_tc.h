/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The commonest packets in tc. What is tunnelled goes by the same arrays as in XDP (fast.h). What else is about a process of this
 * node needs its binding, of which there are no copies: `bindings` is asked, and the fast path spares the other searches, the
 * reading of what is not needed, and a write into the packet.
 *
 * Packets are read in place and changed by helpers alone: for a direct write the verifier has every packet copied that somebody
 * else holds as well. Inlined: beside the general path's stack there is no room for another function's.
 */
#ifndef HOMEPROXY_FAST_TC_H
#define HOMEPROXY_FAST_TC_H

#include "encapsulate.h"
#include "fast.h"
#include "homeward.h"
#include "way_out.h"

/* Neither marked by one of the other programs nor with a VLAN tag. */
static __always_inline int is_unmarked(const struct __sk_buff *skb)
{
	return fast_path && !skb->mark && !skb->vlan_present;
}

/* Whether the other end of a plain packet, with its port at `at_other`, is nobody's who departed either. */
static __always_inline int is_foreign_too(void *data, void *end, const struct plain *plain, __u32 at_other)
{
	return data + FAST_HEADERS <= end && is_foreign((plain->udp ? 65536 : 0) + bpf_ntohs(read(__be16, at_other)));
}

/*
 * A verdict for a packet that the kernel refused to change, as it would have refused the general path. That is not tried: a packet
 * may have its room already when the refusal comes (bpf_skb_net_grow linearizes super-packets with a frag_list last).
 */
static __always_inline int fast_refused(struct __sk_buff *skb, __u32 id, __u64 bytes)
{
	count(HOOK_INGRESS, REASON_NO_ROOM, id, bytes);
	tc_report(skb, HOOK_INGRESS, REASON_NO_ROOM, TC_ACT_SHOT, id, bytes);
	return TC_ACT_SHOT;
}

/* As segment_flags() in tc_actions.h has it: of TCP segments may change their size. */
static __always_inline __u64 fast_segments(const struct plain *plain)
{
	return plain->udp ? BPF_F_ADJ_ROOM_FIXED_GSO : 0;
}

/* As encapsulated_length() in tc_actions.h: the longest packet that leaves. */
static __always_inline __u32 fast_length(const struct __sk_buff *skb, const struct plain *plain)
{
	if (!skb->gso_size)
		return plain->total + OUTER;
	return skb->gso_size + plain->headers + (plain->udp ? OUTER : 0);
}

/* Counts a packet that goes into a binding's tunnel. */
static __always_inline void fast_count_tunnelled(__u32 id, __u64 bytes)
{
	struct counter *own = bpf_map_lookup_elem(&fast_counters, &id);

	if (own)
		add_to(own, bytes);
	fast_count(HOOK_INGRESS, REASON_TUNNELLED, bytes);
}

/* fast_outer() of fast.h and the rest, for tc: both headers in one write. */
static __always_inline int fast_wrap(struct __sk_buff *skb, __u32 id, __u8 tos, const struct plain *plain)
{
	struct fast_binding *binding = bpf_map_lookup_elem(&fast_bindings, &id);

	if (!binding)
		return GENERAL_PATH;
	__u32 version = *(volatile __u32 *)&binding->version;
	const struct fast_route *route = fast_route_of(binding, version);
	__u32 length = fast_length(skb, plain);
	__u64 bytes = skb->len;

	if (!version || plain->total + OUTER > 65535 || length > route->mtu || may_exceed_path(length))
		return GENERAL_PATH;
	union {
		__u64 word[5];
		__u16 half[20];
		__u8 byte[40];
	} header;
	const __u64 *from = (const __u64 *)route;

	for (int i = 0; i < 4; i++)
		header.word[i] = from[i];
	header.half[16] = ((const __u16 *)route)[16];
	__u32 ifindex = route->ifindex;
	__be16 total = bpf_htons(plain->total + OUTER);
	__u32 sum = route->sum + bpf_htons(tos) + total;

	asm volatile("" ::: "memory");
	if (*(volatile __u32 *)&binding->version != version) /* written to meanwhile */
		return GENERAL_PATH;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	header.byte[AT_IP + 1] = tos;
	header.half[AT_TOTAL / 2] = total;
	header.half[(AT_IP + 10) / 2] = ~sum;
	if (bpf_skb_adjust_room(skb, OUTER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | fast_segments(plain)) ||
	    bpf_skb_store_bytes(skb, 0, &header, AT_IP + OUTER, BPF_F_INVALIDATE_HASH))
		return fast_refused(skb, id, bytes);
	fast_count_tunnelled(id, bytes);
	return bpf_redirect(ifindex, 0);
}

/* Whether what is for the process goes into its pod at once: all else that `bindings` may say is for the general path. */
static __always_inline int is_delivered(const struct binding *binding)
{
	return binding->action == ACTION_DELIVER && !binding->draining && !binding->hold;
}

/*
 * A packet in a tunnel over IPv4 from a node that we know, for a process in a pod here:
 *
 *   14 bytes   20 bytes                      20 bytes
 *   +--------+-----------------------------+------------------------+
 *   | Eth    | IPv4, protocol 4            | IPv4 | TCP ...         |
 *   +--------+-----------------------------+------------------------+
 *
 * The packet inside is read as if its frame began OUTER bytes behind this one's begin.
 *
 * It must fill the tunnel's packet, and have met with nothing there that it had to be told of (RFC 6040).
 */
static __always_inline int fast_unwrap(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__u64 bytes = skb->len;
	struct address own = node_address;

	if (data + OUTER + FAST_HEADERS > end || !is_ipv4(&own) || read(__be32, AT_DESTINATION) != own.word[3])
		return GENERAL_PATH;
	__u32 total = bpf_ntohs(read(__be16, AT_TOTAL));
	__u8 tos = read(__u8, AT_IP + 1);
	struct address sender = mapped(read(__be32, AT_SOURCE));
	struct plain plain;

	data += OUTER;
	if (!read_plain_packet(data, end, bytes - OUTER, AT_DESTINATION_PORT, &plain) || plain.total + OUTER != total ||
	    plain.starts || read(__u8, AT_IP + 1) != tos || !bpf_map_lookup_elem(&nodes, &sender))
		return GENERAL_PATH;
	__u32 id = fast_owner(data, end, &plain, AT_DESTINATION);
	struct binding *binding = id ? bpf_map_lookup_elem(&bindings, &id) : NULL;

	if (!binding || !is_delivered(binding))
		return GENERAL_PATH;
	struct ethhdr eth = { .h_proto = bpf_htons(ETH_P_IP) };

	__builtin_memcpy(eth.h_dest, binding->pod_mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, binding->host_mac, ETH_ALEN);
	if (bpf_skb_adjust_room(skb, -OUTER, BPF_ADJ_ROOM_MAC, fast_segments(&plain)) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return fast_refused(skb, id, bytes);
	fast_count_guest(HOOK_INGRESS, REASON_DELIVERED, id, bytes);
	return bpf_redirect_peer(binding->pod_ifindex, 0);
}

/* The verdict for a packet that arrived on an uplink, counted; or GENERAL_PATH. */
static __always_inline int fast_ingress(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct plain plain;

	if (!is_unmarked(skb) || !is_plain_ipv4(data, end))
		return GENERAL_PATH;
	if (read(__u8, AT_PROTOCOL) == IPPROTO_IPIP)
		return fast_unwrap(skb);
	if (!read_plain_packet(data, end, skb->len, AT_DESTINATION_PORT, &plain))
		return GENERAL_PATH;
	if (is_foreign(plain.place)) {
		fast_count(HOOK_INGRESS, REASON_NOT_OURS, skb->len);
		return TC_ACT_UNSPEC;
	}
	if (plain.starts || data + FAST_HEADERS > end)
		return GENERAL_PATH;
	__u32 id = fast_owner(data, end, &plain, AT_DESTINATION);

	return id ? fast_wrap(skb, id, read(__u8, AT_IP + 1), &plain) : GENERAL_PATH;
}

/*
 * The verdict for a packet that leaves by an uplink, counted; or GENERAL_PATH. A tunnel's packet over IPv4 has no ports by which
 * anybody could be found; a process that may speak does, to somebody who is nobody's.
 */
static __always_inline int fast_egress(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct plain plain;

	if (skb->mark == MARK_SENT)
		return fast_sent(skb);
	if (!is_unmarked(skb) || !is_plain_ipv4(data, end))
		return GENERAL_PATH;
	if (read(__u8, AT_PROTOCOL) == IPPROTO_IPIP) {
		fast_count(HOOK_EGRESS, REASON_NOT_OURS, skb->len);
		return TC_ACT_UNSPEC;
	}
	if (!read_plain_packet(data, end, skb->len, AT_SOURCE_PORT, &plain) ||
	    !is_foreign_too(data, end, &plain, AT_DESTINATION_PORT))
		return GENERAL_PATH;
	if (is_foreign(plain.place)) {
		fast_count(HOOK_EGRESS, REASON_NOT_OURS, skb->len);
		return TC_ACT_UNSPEC;
	}
	__u32 id = fast_owner(data, end, &plain, AT_SOURCE);
	struct binding *binding = id ? bpf_map_lookup_elem(&bindings, &id) : NULL;

	if (!binding || binding->egress != EGRESS_OPEN)
		return GENERAL_PATH;
	if (data + FAST_HEADERS <= end)
		learn_way_out(data, skb->ifindex);
	fast_count_guest(HOOK_EGRESS, REASON_AT_HOME, id, skb->len);
	return TC_ACT_UNSPEC;
}

/* The verdict for what a process of this node says to another over `lo`, counted; or GENERAL_PATH. */
static __always_inline int fast_loopback(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct plain plain;

	if (!is_unmarked(skb) || !read_plain(data, end, skb->len, AT_SOURCE_PORT, &plain) || !is_foreign(plain.place) ||
	    !is_foreign_too(data, end, &plain, AT_DESTINATION_PORT))
		return GENERAL_PATH;
	fast_count(HOOK_LOOPBACK, REASON_NOT_OURS, skb->len);
	return TC_ACT_UNSPEC;
}

/* Whether a process that may speak (`binding`) says a plain packet, and not to its home. */
static __always_inline int fast_speaks(struct __sk_buff *skb, const struct binding *binding)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct plain plain;

	return fast_path && binding->egress == EGRESS_OPEN && skb->protocol == bpf_htons(ETH_P_IP) &&
	       read_plain(data, end, skb->len, AT_SOURCE_PORT, &plain) && !plain.starts && data + FAST_HEADERS <= end &&
	       !names_home(data);
}

#undef read

#endif
