/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_ENCAPSULATE_H
#define HOMEPROXY_ENCAPSULATE_H

#include "parse.h"

/* Checksum of a header of 20 bytes whose check field is 0 (RFC 1071). */
static __always_inline __u16 header_checksum(const struct iphdr *ip)
{
	const __u16 *half = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * The outer header of IP-in-IP (RFC 2003; of IPv6: RFC 4213):
 *
 *   14 bytes   20 bytes                                  the packet as it came
 *   +--------+-----------------------------------------+------------------------+
 *   | Eth    | IPv4, protocol 4 or 41, TTL 64, DF      | IPv4 or IPv6 | TCP ... |
 *   |        | this node -> care-of address            | remote -> home address |
 *   +--------+-----------------------------------------+------------------------+
 *
 * DSCP is copied and ECN as well (RFC 6040, 4.1, normal mode). With DF set the id may be 0 (RFC 6864, 4.1).
 *
 * A packet that came tunnelled and goes on to another node gets this header in place of the one that it had: with its ECN,
 * and a TTL one smaller, so that two nodes which take each other for the care-of host do not play ball for ever.
 */
static __always_inline struct iphdr outer_header(const struct binding *binding, const struct tuple *inner, __u8 tos, __u8 ttl)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = tos,
		.tot_len = bpf_htons(inner->total + sizeof(struct iphdr)),
		.frag_off = bpf_htons(IP_DF),
		.ttl = ttl,
		.protocol = inner->family == FAMILY_IPV6 ? IPPROTO_IPV6 : IPPROTO_IPIP,
		.saddr = binding->node.word[3],
		.daddr = binding->care_of.word[3],
	};

	ip.check = header_checksum(&ip);
	return ip;
}

#endif
