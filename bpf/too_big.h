/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_TOO_BIG_H
#define HOMEPROXY_TOO_BIG_H

#include "encapsulate.h"
#include "maps.h"

/* Marks our own answer, which hp_egress would take for the kernel speaking in place of a departed process. */
#define MARK_ANSWER 0x6870696d

#define QUOTED_BYTES (sizeof(struct iphdr) + 8) /* RFC 792: the header and 64 bits of what follows */
#define ANSWERS_PER_SECOND 100
#define SECOND_NS 1000000000ULL

struct bucket {
	__u64 since;
	__u64 answers;
};

/* Answers sent in the current second, per CPU (RFC 1812, 4.3.2.8: a router must limit its ICMP errors). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} too_big_answers SEC(".maps");

static __always_inline int may_answer(void)
{
	__u32 zero = 0;
	struct bucket *bucket = bpf_map_lookup_elem(&too_big_answers, &zero);
	__u64 now = bpf_ktime_get_ns();

	if (!bucket)
		return 0;
	if (now - bucket->since > SECOND_NS) {
		bucket->since = now;
		bucket->answers = 0;
	}
	return bucket->answers++ < ANSWERS_PER_SECOND;
}

/*
 * "Fragmentation needed" (RFC 1191), back to the correspondent, in place of a packet that would not fit after encapsulation:
 *
 *   14       20                      8                              20 + 8
 *   +------+-----------------------+------------------------------+--------------------------+
 *   | Eth  | IPv4                  | ICMP type 3, code 4, MTU - 20 | IPv4 as it came | 8 bytes |
 *   | back | home address -> remote|                              | of the TCP header        |
 *   +------+-----------------------+------------------------------+--------------------------+
 *
 * The answer comes from the home address: the one that the correspondent spoke to, which no filter on its way refuses.
 * A sender that did not set DF would not heed it: such a packet is dropped, and counted.
 */
static __always_inline int answer_too_big(struct __sk_buff *skb, const struct binding *binding, const struct tuple *t,
					__u8 tunnelled, enum reason *reason)
{
	__u8 quoted[QUOTED_BYTES];
	struct ethhdr eth;
	struct {
		struct iphdr ip;
		struct icmp_header icmp;
	} answer = {};

	*reason = REASON_TOO_BIG_UNANSWERED;
	if (tunnelled || t->family != FAMILY_IPV4 || !t->df || t->protocol == IPPROTO_ICMP || !may_answer() ||
	    bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) ||
	    bpf_skb_load_bytes(skb, sizeof(eth), quoted, sizeof(quoted)) ||
	    bpf_skb_change_tail(skb, sizeof(eth) + sizeof(answer) + sizeof(quoted), 0))
		return TC_ACT_SHOT;
	answer.ip.version = 4;
	answer.ip.ihl = 5;
	answer.ip.tot_len = bpf_htons(sizeof(answer) + sizeof(quoted));
	answer.ip.frag_off = bpf_htons(IP_DF);
	answer.ip.ttl = OUTER_TTL;
	answer.ip.protocol = IPPROTO_ICMP;
	answer.ip.saddr = t->destination.word[3];
	answer.ip.daddr = t->source.word[3];
	answer.ip.check = header_checksum(&answer.ip);
	answer.icmp.type = ICMP_UNREACHABLE;
	answer.icmp.code = ICMP_NEEDS_FRAGMENTATION;
	answer.icmp.mtu = bpf_htons(binding->next_hop.mtu - overhead(binding));
	__s64 sum = bpf_csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer.icmp), 0);

	sum = bpf_csum_diff(0, 0, (__be32 *)quoted, sizeof(quoted), sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	answer.icmp.checksum = ~sum;

	__u8 back[ETH_ALEN];

	__builtin_memcpy(back, eth.h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, eth.h_dest, ETH_ALEN);
	__builtin_memcpy(eth.h_dest, back, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(eth), &answer, sizeof(answer), BPF_F_INVALIDATE_HASH) ||
	    bpf_skb_store_bytes(skb, sizeof(eth) + sizeof(answer), quoted, sizeof(quoted), 0))
		return TC_ACT_SHOT;
	*reason = REASON_TOO_BIG;
	skb->mark = MARK_ANSWER;
	return bpf_redirect_neigh(binding->uplink_ifindex, NULL, 0, 0);
}

#endif
