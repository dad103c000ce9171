/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose a packet is. Mostly its ports say it; an ICMP error is about the packet that it quotes, and belongs to the process
 * that sent that one; a later fragment belongs where the first one went.
 */
#ifndef HOMEPROXY_ICMP_ERROR_H
#define HOMEPROXY_ICMP_ERROR_H

#include "fragments.h"

static __always_inline int is_icmp(const struct tuple *t)
{
	return t->protocol == (t->family == FAMILY_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

static __always_inline int is_icmp_error(void *data, void *end, const struct tuple *t)
{
	struct icmp_header *icmp = data + bounded(t->l4);

	if (!is_icmp(t) || t->fragment || (void *)(icmp + 1) > end || t->total < t->headers + sizeof(*icmp))
		return 0;
	if (t->family == FAMILY_IPV6)
		return icmp->type < ICMP6_INFORMATIONAL;
	return icmp->type == ICMP_UNREACHABLE || icmp->type == ICMP_QUENCH || icmp->type == ICMP_EXCEEDED ||
	       icmp->type == ICMP_PROBLEM;
}

/*
 * The packet that an ICMP error quotes, as far as its ports:
 *
 *    t->l4     8                    20 or more    8, often more
 *   +---------+--------------------+-------------+----------------------+
 *   | IP ...  | type, code, ...    | IP          | ports, TCP sequence  |
 *   +---------+--------------------+-------------+----------------------+
 *
 * A later fragment is no subject of an error (RFC 1122, 3.2.2), and names nobody. Of IPv6 extension headers only a fragment's
 * is read, the one that a kernel puts into what a process sends.
 */
static __always_inline int parse_quoted_packet(void *data, void *end, __u32 offset, __u8 family, struct tuple *quoted)
{
	offset = bounded(offset);
	if (family == FAMILY_IPV4)
		return parse_ipv4(data, end, offset, quoted, 1) == PARSED && quoted->fragment != FRAGMENT_LATER;
	struct ipv6hdr *ip = data + offset;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return 0;
	__builtin_memcpy(&quoted->source, &ip->saddr, sizeof(quoted->source));
	__builtin_memcpy(&quoted->destination, &ip->daddr, sizeof(quoted->destination));
	quoted->family = FAMILY_IPV6;
	quoted->protocol = ip->nexthdr;
	quoted->total = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	quoted->df = 1;
	quoted->fragment = FRAGMENT_NONE;
	quoted->l3 = offset;
	quoted->l4 = offset + sizeof(*ip);
	if (ip->nexthdr == IPPROTO_FRAGMENT) {
		struct extension *fragment = data + quoted->l4;

		if ((void *)(fragment + 1) > end || (fragment->second & bpf_htons(IP6_OFFSET)))
			return 0;
		quoted->protocol = fragment->next;
		quoted->l4 += sizeof(*fragment);
	}
	quoted->headers = quoted->l4 - offset;
	return parse_transport(data, end, quoted, 1) == PARSED;
}

/* What lies behind the end of the error itself is padding of its frame, whatever it looks like. */
static __always_inline int is_quoted_in(const struct tuple *t, const struct tuple *quoted)
{
	return quoted->l3 + quoted->headers <= t->l3 + t->total;
}

static __always_inline int parse_quoted(void *data, void *end, const struct tuple *t, struct tuple *quoted)
{
	return parse_quoted_packet(data, end, t->l4 + sizeof(struct icmp_header), t->family, quoted) &&
	       is_quoted_in(t, quoted);
}

/* Whether an ICMP error says that the packet which it quotes was too big for a link. */
static __always_inline int says_too_big(void *data, void *end, const struct tuple *t)
{
	struct icmp_header *icmp = data + bounded(t->l4);

	if ((void *)(icmp + 1) > end)
		return 0;
	return t->family == FAMILY_IPV6 ? icmp->type == ICMP6_TOO_BIG
					: icmp->type == ICMP_UNREACHABLE && icmp->code == ICMP_NEEDS_FRAGMENTATION;
}

/* Whether a packet that this node sent may have been a tunnel's. */
static __always_inline int may_be_tunnel(const struct tuple *t)
{
	return t->protocol == IPPROTO_IPIP || t->protocol == IPPROTO_IPV6 || t->protocol == IPPROTO_UDP;
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] && a->word[0] == b->word[0];
}

/* The local end that a packet is for: named by its destination, or the sender of what an ICMP error quotes. */
static __always_inline struct found find_hearer(void *data, void *end, const struct tuple *t)
{
	struct found found = {};
	struct tuple quoted = {};

	if (t->fragment == FRAGMENT_LATER)
		return find_by_fragment(t, SIDE_HEARD);
	if (is_icmp(t)) {
		if (!is_icmp_error(data, end, t) || !parse_quoted(data, end, t, &quoted) ||
		    !same_address(&quoted.source, &t->destination))
			return found;
		found = find_by_source(&quoted);
		found.tunnel_too_big = !found.binding && may_be_tunnel(&quoted) && says_too_big(data, end, t);
		return found;
	}
	found = find_by_destination(t);
	if (found.binding && t->fragment == FRAGMENT_FIRST)
		remember_fragment(t, SIDE_HEARD, &found);
	return found;
}

/* The local end in whose name a packet speaks: its source, or the addressee of what an ICMP error quotes. */
static __always_inline struct found find_speaker(void *data, void *end, const struct tuple *t)
{
	struct found found = {};
	struct tuple quoted = {};

	if (t->fragment == FRAGMENT_LATER)
		return find_by_fragment(t, SIDE_SAID);
	if (is_icmp(t)) {
		if (is_icmp_error(data, end, t) && parse_quoted(data, end, t, &quoted))
			found = find_by_destination(&quoted);
		return found;
	}
	found = find_by_source(t);
	if (found.binding && t->fragment == FRAGMENT_FIRST)
		remember_fragment(t, SIDE_SAID, &found);
	return found;
}

/* Why a packet for which there is no binding is passed. */
static __always_inline enum reason reason_of_nobody(const struct tuple *t, enum reason otherwise)
{
	return t->fragment == FRAGMENT_LATER ? REASON_FRAGMENT_UNKNOWN : otherwise;
}

#endif
