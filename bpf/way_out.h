/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a process says, to its correspondent. bpf_redirect_neigh() has the kernel look up route and neighbour for every packet. What
 * it has chosen is seen by hp_egress before that redirect is over, and used again for `way_out_ns`:
 *
 *   hp_pod      no way known: asks for it, sends by the kernel    a way known: its addresses and a mark, out by the uplink
 *   hp_egress   asked for: keeps the addresses on the frame       marked: takes the mark off
 *
 * A way's time is never prolonged: when it is over the kernel is asked again, by the next packet. So a route or a neighbour that
 * changes is followed, and neither a neighbour that is in use becomes stale.
 */
#ifndef HOMEPROXY_WAY_OUT_H
#define HOMEPROXY_WAY_OUT_H

#include "fast.h"
#include "loopback.h"

#define WAY_INDEX_BITS 8

/* Set before the load, by tests. Short of anything that a sender would notice, long enough that hardly a packet of a stream asks. */
const volatile __u64 way_out_ns = 10000000;

/* A frame that hp_pod has addressed: hp_egress has nothing to judge. */
#define MARK_SENT 0x68707365

enum way_state {
	WAY_NONE = 0,
	WAY_ASKED = 1,
	WAY_KNOWN = 2,
};

/* All that the kernel may choose by, where the interface is given (ip-rule(8)). Compared as two words of 64 bits. */
struct way_key {
	__be32 source;
	__be32 destination;
	__u32 ifindex;
	__u8 dscp; /* the two bits below it are 0 */
	__u8 protocol;
	__u16 state; /* enum way_state */
};

struct way_out {
	struct way_key key;
	__u64 until; /* bpf_ktime_get_coarse_ns() */
	__u32 binding; /* whose the packet is that is on its way: several may have the address */
	__u8 addresses[2 * ETH_ALEN]; /* as on a frame: destination, source */
};

/* A redirect is carried out on the CPU of its program and before any other packet there, since softirqs do not preempt each other. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << WAY_INDEX_BITS);
	__type(key, __u32);
	__type(value, struct way_out);
} ways_out SEC(".maps");

/* The place of a packet's way out of `ifindex`, which is its way if `key` is there. */
static __always_inline struct way_out *way_out_of(void *data, __u32 ifindex, enum way_state state, struct way_key *key)
{
	*key = (struct way_key){
		.source = read(__be32, AT_SOURCE),
		.destination = read(__be32, AT_DESTINATION),
		.ifindex = ifindex,
		.dscp = read(__u8, AT_IP + 1) & 0xfc,
		.protocol = read(__u8, AT_PROTOCOL),
		.state = state,
	};
	__u32 index = ((key->source ^ key->destination) * 0x9e3779b1) >> (32 - WAY_INDEX_BITS);

	return bpf_map_lookup_elem(&ways_out, &index);
}

static __always_inline int is_way(const struct way_out *way, const struct way_key *key)
{
	const __u64 *is = (const __u64 *)&way->key, *wanted = (const __u64 *)key;

	return is[0] == wanted[0] && is[1] == wanted[1];
}

/* Through the kernel's own routes and neighbours. */
static __always_inline int tc_send(const struct binding *binding)
{
	return bpf_redirect_neigh(binding->uplink_ifindex, NULL, 0, 0);
}

/* The verdict for a plain packet of a process that may speak, counted; GENERAL_PATH: it is for this very node. */
static __always_inline int fast_send(struct __sk_buff *skb, const struct found *found)
{
	void *data = (void *)(long)skb->data;
	__u32 uplink = found->binding->uplink_ifindex;
	__u64 bytes = skb->len;
	struct way_key key;

	if (data + FAST_HEADERS > (void *)(long)skb->data_end)
		return GENERAL_PATH;
	struct way_out *way = way_out_of(data, uplink, WAY_KNOWN, &key);

	if (way && is_way(way, &key) && bpf_ktime_get_coarse_ns() < way->until &&
	    !bpf_skb_store_bytes(skb, 0, way->addresses, sizeof(way->addresses), 0)) {
		fast_count_guest(HOOK_POD, REASON_SENT, found->id, bytes);
		way->binding = found->id;
		skb->mark = MARK_SENT;
		return bpf_redirect(uplink, 0);
	}
	struct address hearer = mapped(key.destination);

	if (is_local(&hearer))
		return GENERAL_PATH;
	if (way) {
		way->key = key;
		way->key.state = WAY_ASKED;
	}
	fast_count_guest(HOOK_POD, REASON_SENT, found->id, bytes);
	return tc_send(found->binding);
}

/* Keeps how the kernel sends a frame of at least FAST_HEADERS bytes out of `ifindex`, if hp_pod has asked for that. */
static __always_inline void learn_way_out(void *data, __u32 ifindex)
{
	struct way_key key;
	struct way_out *way = way_out_of(data, ifindex, WAY_ASKED, &key);

	if (!way || !is_way(way, &key))
		return;
	__builtin_memcpy(way->addresses, data, sizeof(way->addresses));
	way->until = bpf_ktime_get_coarse_ns() + way_out_ns;
	way->key.state = WAY_KNOWN;
}

/* The verdict for a frame with MARK_SENT, counted. */
static __always_inline int fast_sent(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct way_key key;
	__u32 id = 0;

	skb->mark = 0;
	if (data + FAST_HEADERS <= (void *)(long)skb->data_end) {
		struct way_out *way = way_out_of(data, skb->ifindex, WAY_KNOWN, &key);

		if (way && is_way(way, &key))
			id = way->binding;
	}
	fast_count_guest(HOOK_EGRESS, REASON_AT_HOME, id, skb->len);
	return TC_ACT_UNSPEC;
}

#endif
