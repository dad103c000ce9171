/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv4 packets without DF that would not fit into the tunnel; most are fragments themselves, as a datagram of 8 kB arrives in
 * pieces that each fill the link. The packet inside is fragmented (RFC 791, 3.2) and not the tunnel's: so every piece is an
 * ordinary tunnel packet, and it is the process's own kernel that puts it together with the others.
 *
 *   +------+---------------------------------------------+     the packet, 1500 bytes
 *   | IPv4 |                                             |
 *   +------+---------------------------------------------+
 *   +-------+----------+-------------------------------+       tunnel packets of at most the path's MTU
 *   | outer | IPv4, MF |                               |
 *   +-------+----------+-------------------------------+
 *                                              +-------+------+------------+
 *                                              | outer | IPv4 |            |
 *                                              +-------+------+------------+
 *
 * Included by tc_actions.h, whose encapsulation it uses.
 */
#ifndef HOMEPROXY_SPLIT_H
#define HOMEPROXY_SPLIT_H

#define PIECES 32 /* of 16 KiB, for a path of 576 */

/*
 * A sender on this machine may have left the transport checksum to the network card: the field then holds the sum of the
 * pseudo header alone, and no card completes it over pieces. A checksum that is wrong otherwise stays wrong.
 */
static __always_inline void complete_checksum(struct scratch *scratch, const struct tuple *t)
{
	__u32 length = t->total - sizeof(struct iphdr);
	const struct iphdr *ip = (const struct iphdr *)scratch->packet;
	__be32 pseudo[3] = { ip->saddr, ip->daddr, bpf_htonl(t->protocol << 16 | length) };
	__u16 *field;

	if (t->fragment)
		return;
	if (t->protocol == IPPROTO_UDP)
		field = (__u16 *)&scratch->packet[sizeof(struct iphdr) + __builtin_offsetof(struct udphdr, check)];
	else if (t->protocol == IPPROTO_TCP)
		field = (__u16 *)&scratch->packet[sizeof(struct iphdr) + __builtin_offsetof(struct tcphdr, check)];
	else
		return;
	if (*field != fold(bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), 0)))
		return;
	__u16 sum = ~fold(sum_scratch(sizeof(struct iphdr), length, 0));

	*field = sum ?: 0xffff; /* RFC 768: 0 would say that there is none */
}

/* Makes the headers of a piece of so many bytes (of payload) out of those of the packet. */
static __always_inline void fill_headers(struct scratch *scratch, struct iphdr *inner, __u32 at, __u32 length, int last)
{
	struct outer_frame *head = &scratch->split.head;
	__u16 fragment = bpf_ntohs(((struct iphdr *)scratch->packet)->frag_off);
	__u32 outer = scratch->split.outer;
	__u32 total = sizeof(*inner) + length;

	*inner = *(struct iphdr *)scratch->packet;
	inner->tot_len = bpf_htons(total);
	inner->frag_off = bpf_htons((last ? fragment : fragment | IP_MF) + at / 8);
	inner->check = 0;
	inner->check = header_checksum(inner);
	if (head->eth.h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr ip = head->ipv4.ip;

		ip.tot_len = bpf_htons(outer + total);
		ip.check = 0;
		ip.check = header_checksum(&ip);
		head->ipv4.ip = ip;
		head->ipv4.udp.len = bpf_htons(sizeof(struct udphdr) + total);
	} else {
		head->ipv6.ip.payload_len = bpf_htons(outer + total - sizeof(struct ipv6hdr));
		head->ipv6.udp.len = bpf_htons(sizeof(struct udphdr) + total);
	}
}

/*
 * Sends scratch->split but for the last piece, which the skb is on return. 0: done. A function of its own, so that the verifier
 * goes through its loop once and not on every way that leads here.
 */
__noinline int send_pieces(struct __sk_buff *skb)
{
	struct scratch *scratch = get_scratch();

	if (!scratch)
		return -1;
	struct split *split = &scratch->split;
	struct iphdr *inner = (struct iphdr *)split->inner;
	__u32 head = sizeof(struct ethhdr) + split->outer;
	__u32 at = 0;

	for (int i = 0; i < PIECES; i++) {
		__u32 left = split->payload - at;
		int last = left <= split->step;
		__u32 length = last ? left : split->step;

		if (at >= SCRATCH_BYTES || length < 1 || length > PIECE_BYTES - sizeof(*inner) || head < sizeof(struct ethhdr) ||
		    head > sizeof(split->head) || bpf_skb_change_tail(skb, head + sizeof(*inner) + length, 0))
			return -1;
		fill_headers(scratch, inner, at, length, last);
		if (bpf_skb_store_bytes(skb, 0, &split->head, head, BPF_F_INVALIDATE_HASH) ||
		    bpf_skb_store_bytes(skb, head, inner, sizeof(*inner), 0) ||
		    bpf_skb_store_bytes(skb, head + sizeof(*inner), &scratch->packet[sizeof(*inner) + at], length, 0))
			return -1;
		if (last)
			return 0;
		if (bpf_clone_redirect(skb, split->ifindex, 0))
			return -1;
		at += split->step;
	}
	return -1;
}

/* The headers that every piece gets, but for its lengths. 0: done. */
static __always_inline int fill_head(struct __sk_buff *skb, struct outer_frame *head, const struct decision *d,
				     const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;

	__builtin_memcpy(head->eth.h_dest, binding->next_hop.destination, ETH_ALEN);
	__builtin_memcpy(head->eth.h_source, binding->next_hop.source, ETH_ALEN);
	head->eth.h_proto = type_of(outer_family(binding));
	if (outer_family(binding) == FAMILY_IPV4) {
		head->ipv4.ip = outer_ipv4(binding, inner, d->tos, d->ttl);
		head->ipv4.udp = outer_udp(binding, inner);
		return 0;
	}
	head->ipv6.ip = outer_ipv6(binding, inner, d->tos, d->ttl);
	head->ipv6.udp = outer_udp(binding, inner);
	return bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0);
}

/*
 * Whether a fragment ends behind the last byte that a datagram can have: its pieces would have offsets that the field does not
 * hold, and no receiver puts such a datagram together.
 */
static __always_inline int ends_beyond(const struct iphdr *ip, __u32 total)
{
	return (bpf_ntohs(ip->frag_off) & IP_OFFSET) * 8 + total - sizeof(*ip) > 65535;
}

/*
 * Takes a packet through the tunnel in pieces of at most `most` bytes, in order: clones of the skb go ahead, itself is the last.
 * Not those with IP options, of which each has rules of its own for later fragments, and no super-packets.
 *
 * The kernel is not told of the encapsulation (BPF_F_ADJ_ROOM_ENCAP_*): it would refuse to change the length afterwards.
 * `inner` is no longer what it was.
 */
static __always_inline int tc_split(struct __sk_buff *skb, struct decision *d, struct tuple *inner, __u32 most, enum reason *reason)
{
	const struct next_hop *hop = &d->found.binding->next_hop;
	struct scratch *scratch = get_scratch();
	__u64 flags = skb->protocol == bpf_htons(ETH_P_IP) ? 0 : DECAP_L3_IPV4;
	__u32 total = inner->total;

	*reason = REASON_TOO_BIG_UNANSWERED;
	if (!scratch || skb->gso_size || inner->l4 - inner->l3 != sizeof(struct iphdr) || most < LEAST_MTU_IPV4 / 2 ||
	    total <= sizeof(struct iphdr) || total > SCRATCH_BYTES)
		return TC_ACT_SHOT;
	*reason = REASON_NO_ROOM;
	if (bpf_skb_load_bytes(skb, inner->l3, scratch->packet, total))
		return TC_ACT_SHOT;
	if (ends_beyond((struct iphdr *)scratch->packet, total)) {
		*reason = REASON_TOO_BIG_UNANSWERED;
		return TC_ACT_SHOT;
	}
	complete_checksum(scratch, inner);
	inner->fragment = inner->fragment ?: FRAGMENT_FIRST; /* ports no longer tell its way: see flow_hash */
	if (make_blank(skb, sizeof(struct ethhdr) + sizeof(struct ipv6hdr), flags) ||
	    fill_head(skb, &scratch->split.head, d, inner))
		return TC_ACT_SHOT;
	scratch->split.outer = overhead(d->found.binding);
	scratch->split.payload = total - sizeof(struct iphdr);
	scratch->split.step = ((most > PIECE_BYTES ? PIECE_BYTES : most) - sizeof(struct iphdr)) & ~7U;
	scratch->split.ifindex = hop->ifindex;
	skb->mark = hop->resolved ? 0 : MARK_PIECE;
	if (send_pieces(skb))
		return TC_ACT_SHOT;
	skb->mark = 0;
	*reason = REASON_SPLIT;
	return hop->resolved ? bpf_redirect(hop->ifindex, 0) : bpf_redirect_neigh(hop->ifindex, NULL, 0, 0);
}

#endif
