/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* "Too big", said to a correspondent: about a packet that will not fit into the tunnel, or did not fit on its way through. */
#ifndef HOMEPROXY_TOO_BIG_H
#define HOMEPROXY_TOO_BIG_H

#include "encapsulate.h"
#include "icmp_error.h"
#include "loopback.h"
#include "path_mtu.h"
#include "scratch.h"

/* Marks our own answer, which hp_egress would take for the kernel speaking in place of a departed process. */
#define MARK_ANSWER 0x6870696d
/* Marks a piece of a split packet whose next hop hp_egress is to ask of the kernel: bpf_clone_redirect cannot. */
#define MARK_PIECE 0x68706670

#define ANSWER_BYTES_IPV4 576  /* of an ICMP error at most (RFC 1812, 4.3.2.3) */
#define ANSWER_BYTES_IPV6 1280 /* RFC 4443, 2.4 (c) */
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

#define CUT_BYTES 512

/*
 * Leaves `length` bytes in the frame, of which only the Ethernet header still means something. On the way there goes what the
 * kernel knew of the old packet: that it was a super-packet (at the change of the tail), and that somebody left its
 * checksum to the network card, which would be written into the middle of ours (when more than the start of the
 * checksummed part is pulled off the front).
 */
static __always_inline long make_blank(struct __sk_buff *skb, __u32 length, __u64 flags)
{
	long failed = bpf_skb_change_tail(skb, sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + CUT_BYTES, 0);

	failed = failed ?: bpf_skb_adjust_room(skb, -CUT_BYTES, BPF_ADJ_ROOM_MAC, flags);
	return failed ?: bpf_skb_change_tail(skb, length, 0);
}

static __always_inline void fill_answer_ipv4(struct scratch *scratch, __u32 quoted)
{
	struct answer_ipv4 *answer = &scratch->answer.ipv4;

	answer->ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(*answer) + quoted),
		.frag_off = bpf_htons(IP_DF),
		.ttl = OUTER_TTL,
		.protocol = IPPROTO_ICMP,
		.saddr = scratch->message.from.word[3],
		.daddr = scratch->message.to.word[3],
	};
	answer->icmp = (struct icmp_header){
		.type = ICMP_UNREACHABLE,
		.code = ICMP_NEEDS_FRAGMENTATION,
		.mtu = bpf_htons(scratch->message.mtu),
	};
	__u32 sum = bpf_csum_diff(0, 0, (__be32 *)&answer->icmp, sizeof(answer->icmp), 0);

	answer->ip.check = header_checksum(&answer->ip);
	answer->icmp.checksum = ~fold(sum_scratch(0, quoted, sum));
}

static __always_inline void fill_answer_ipv6(struct scratch *scratch, __u32 quoted)
{
	__be32 pseudo[2] = { bpf_htonl(sizeof(struct icmp_header) + quoted), bpf_htonl(IPPROTO_ICMPV6) }; /* RFC 8200, 8.1 */
	struct answer_ipv6 *answer = &scratch->answer.ipv6;

	answer->ip = (struct ipv6hdr){
		.version = 6,
		.payload_len = bpf_htons(sizeof(struct icmp_header) + quoted),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = OUTER_TTL,
	};
	__builtin_memcpy(&answer->ip.saddr, &scratch->message.from, sizeof(scratch->message.from));
	__builtin_memcpy(&answer->ip.daddr, &scratch->message.to, sizeof(scratch->message.to));
	answer->icmp = (struct icmp_header){ .type = ICMP6_TOO_BIG, .mtu = bpf_htons(scratch->message.mtu) };
	__u32 sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(0, 0, (__be32 *)&answer->ip.saddr, 2 * sizeof(struct address), sum);
	sum = bpf_csum_diff(0, 0, (__be32 *)&answer->icmp, sizeof(answer->icmp), sum);
	answer->icmp.checksum = ~fold(sum_scratch(0, quoted, sum));
}

/*
 * Puts the message in the place of the frame ("fragmentation needed" of RFC 1191, "packet too big" of RFC 4443, 3.2):
 *
 *   14       20 (40)                 8                                    up to 576 (1280) in all
 *   +------+-----------------------+------------------------------------+------------------------+
 *   | Eth  | IPv4 (IPv6)           | ICMP 3, 4, MTU  (ICMPv6 2, 0, MTU) | the packet as it came  |
 *   | back | home address -> remote|                                    |                        |
 *   +------+-----------------------+------------------------------------+------------------------+
 *
 * It comes from the home address: the one that the correspondent spoke to, which no filter on its way refuses. 0: done.
 */
__noinline int write_too_big(struct __sk_buff *skb)
{
	struct scratch *scratch = get_scratch();
	struct ethhdr eth;

	if (!scratch)
		return -1;
	struct too_big *message = &scratch->message;
	int ipv6 = message->family == FAMILY_IPV6;
	__u32 headers = ipv6 ? sizeof(struct answer_ipv6) : sizeof(struct answer_ipv4);
	__u32 quoted = (ipv6 ? ANSWER_BYTES_IPV6 : ANSWER_BYTES_IPV4) - headers;
	__u64 flags = ipv6 ? DECAP_L3_IPV6 : DECAP_L3_IPV4;

	if (quoted > message->length)
		quoted = message->length;
	if (quoted < 1 || quoted > ANSWER_BYTES_IPV6 || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) ||
	    bpf_skb_load_bytes(skb, message->at, scratch->packet, quoted) ||
	    make_blank(skb, sizeof(eth) + headers + quoted, message->carried == message->family ? 0 : flags))
		return -1;
	__u8 back[ETH_ALEN];

	__builtin_memcpy(back, eth.h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, eth.h_dest, ETH_ALEN);
	__builtin_memcpy(eth.h_dest, back, ETH_ALEN);
	eth.h_proto = ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (ipv6)
		fill_answer_ipv6(scratch, quoted);
	else
		fill_answer_ipv4(scratch, quoted);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(eth), &scratch->answer, headers, BPF_F_INVALIDATE_HASH))
		return -1;
	return bpf_skb_store_bytes(skb, sizeof(eth) + headers, scratch->packet, quoted, 0);
}

static __always_inline int send_too_big(struct __sk_buff *skb, __u32 uplink)
{
	int own = is_of_loopback(skb); /* its sender is on this node */

	if (write_too_big(skb))
		return TC_ACT_SHOT;
	if (own)
		return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
	skb->mark = MARK_ANSWER;
	return bpf_redirect_neigh(uplink, NULL, 0, 0);
}

/*
 * In place of a packet that would not fit after encapsulation, whose sender forbids to fragment it (always so for IPv6). Never
 * in answer to an ICMP error, or to a later fragment of IPv4 (RFC 1122, 3.2.2).
 */
static __always_inline int answer_too_big(struct __sk_buff *skb, const struct binding *binding, const struct tuple *t,
					  __u32 mtu, enum reason *reason)
{
	struct scratch *scratch = get_scratch();

	*reason = REASON_TOO_BIG_UNANSWERED;
	if (!t->df || is_icmp(t) || (t->family == FAMILY_IPV4 && t->fragment == FRAGMENT_LATER))
		return TC_ACT_SHOT;
	if (t->family == FAMILY_IPV6 && t->total <= LEAST_MTU_IPV6) /* its sender may not be asked for less */
		return TC_ACT_SHOT;
	if (!scratch || !may_answer())
		return TC_ACT_SHOT;
	struct too_big *message = &scratch->message;

	message->from = unlocalized(t, &t->destination);
	message->to = unlocalized(t, &t->source);
	message->mtu = least_mtu(t->family, mtu);
	message->at = t->l3;
	message->length = t->total;
	message->family = t->family;
	message->carried = skb->protocol == bpf_htons(ETH_P_IPV6) ? FAMILY_IPV6 : FAMILY_IPV4;
	int verdict = send_too_big(skb, binding->uplink_ifindex);

	if (verdict != TC_ACT_SHOT)
		*reason = REASON_TOO_BIG;
	return verdict;
}

/*
 * An ICMP error about our own tunnel packet. How much of it a router quotes is its choice: with the 8 bytes of RFC 792 there is
 * nothing of the inner header, with as much as RFC 1812 (4.3.2.3) asks for all of it:
 *
 *   t->l4      20                               20 (40)        8
 *   +---------+--------------------------------+--------------+-------+
 *   | ICMP    | outer: this node -> care-of    | inner header | ports |
 *   +---------+--------------------------------+--------------+-------+
 *
 * The path is remembered either way; with the inner header the correspondent hears of it at once.
 */
static __always_inline int tc_heed_too_big(struct __sk_buff *skb, const struct tuple *t, struct found *found, enum reason *reason)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct icmp_header *icmp = data + bounded(t->l4);
	struct scratch *scratch = get_scratch();

	*reason = REASON_NOT_OURS;
	if (!scratch)
		return TC_ACT_UNSPEC;
	struct tuple *outer = &scratch->outer;
	struct tuple *inner = &scratch->inner;

	if ((void *)(icmp + 1) > end || !parse_quoted(data, end, t, outer))
		return TC_ACT_UNSPEC;
	__u32 mtu = bpf_ntohs(icmp->mtu) ?: usual_mtu_below(outer->total); /* of ICMPv6 the lower half: all that is of interest */
	__u32 at = bounded(outer->l3 + header_bytes(outer->family, outer->protocol == IPPROTO_UDP));
	__u8 *first = data + at;
	int legible = (void *)(first + 1) <= end && parse_quoted_packet(data, end, at, *first >> 4, inner) &&
		      is_quoted_in(t, inner);

	if (mtu >= outer->total || (t->family == FAMILY_IPV6 && icmp->unused)) /* it would have fitted */
		return TC_ACT_UNSPEC;
	mtu = least_mtu(t->family, mtu);
	if (legible)
		*found = find_by_destination(inner);
	if (found->binding &&
	    (found->binding->action != ACTION_TUNNEL || !same_address(&found->binding->care_of, &outer->destination)))
		*found = (struct found){};
	if (!found->binding && (!bpf_map_lookup_elem(&nodes, &outer->destination) || !is_care_of(&outer->destination)))
		return TC_ACT_UNSPEC;
	learn_path_mtu(&outer->destination, mtu);
	*reason = REASON_PATH_MTU;
	if (!found->binding || !inner->df || !may_answer())
		return TC_ACT_UNSPEC;
	struct too_big *message = &scratch->message;

	message->from = inner->destination;
	message->to = inner->source;
	message->mtu = least_mtu(inner->family, mtu - overhead(found->binding));
	message->at = inner->l3;
	message->length = t->l3 + t->total - inner->l3;
	message->family = inner->family;
	message->carried = t->family;
	int verdict = send_too_big(skb, found->binding->uplink_ifindex);

	*reason = verdict == TC_ACT_SHOT ? REASON_NO_ROOM : REASON_TOO_BIG_RELAYED;
	return verdict;
}

#endif
