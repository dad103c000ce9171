/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_ENCAPSULATE_H
#define HOMEPROXY_ENCAPSULATE_H

#include "parse.h"

/* Dynamic ports (RFC 6335, 6), from which the source port of a flow's tunnel is taken. */
#define FLOW_PORTS 49152
#define FLOW_LABEL 0x000fffff

static __always_inline int is_ipv4(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline __u8 outer_family(const struct binding *binding)
{
	return is_ipv4(&binding->care_of) ? FAMILY_IPV4 : FAMILY_IPV6;
}

/* What an Ethernet header says about a packet of that family. */
static __always_inline __be16 type_of(__u8 family)
{
	return family == FAMILY_IPV6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

/* Bytes that a tunnel puts before a packet. Each of the four kinds has a length of its own: by it they are told apart. */
static __always_inline __u32 header_bytes(__u8 family, int udp)
{
	return (family == FAMILY_IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + (udp ? sizeof(struct udphdr) : 0);
}

/* Bytes that this binding's tunnel puts before a packet. */
static __always_inline __u32 overhead(const struct binding *binding)
{
	return header_bytes(outer_family(binding), binding->encapsulation == ENCAPSULATION_UDP);
}

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
 * The same number for every packet of a flow, of different flows most likely different ones, in its upper bits. What is
 * fragmented has no ports in all its parts, so that they do not count: the parts of a packet go the same way.
 */
static __always_inline __u32 flow_hash(const struct tuple *inner)
{
	__u32 ports = inner->fragment ? 0 : (__u32)inner->source_port << 16 | inner->destination_port;
	__u32 hash = inner->source.word[3] * 0x9e3779b1 ^ inner->destination.word[3] * 0x85ebca77;

	if (inner->family == FAMILY_IPV6)
		hash ^= (inner->source.word[0] ^ inner->source.word[1] * 3 ^ inner->source.word[2] * 5) * 0xc2b2ae3d;
	hash = (hash ^ ports) * 0x9e3779b1;
	return (hash ^ hash >> 15) * 0x85ebca77;
}

/*
 * An outer IPv4 header (RFC 2003; of IPv6: RFC 4213):
 *
 *   14 bytes   20 bytes                                  the packet as it came
 *   +--------+-----------------------------------------+--------------------------------+
 *   | Eth    | IPv4, protocol 4 or 41, TTL 64, DF      | IPv4 or IPv6 | TCP ...         |
 *   |        | this node -> care-of address            | remote -> home address         |
 *   +--------+-----------------------------------------+--------------------------------+
 *
 * or, with UDP, protocol 17 and 8 bytes of outer_udp behind it. DSCP is copied and ECN as well (RFC 6040, 4.1, normal mode).
 * With DF set the id may be 0 (RFC 6864, 4.1).
 *
 * A packet that came tunnelled and goes on to another node gets this header in place of the one that it had: with its ECN,
 * and a TTL one smaller, so that two nodes which take each other for the care-of host do not play ball for ever.
 */
static __always_inline struct iphdr outer_ipv4(const struct binding *binding, const struct tuple *inner, __u8 tos, __u8 ttl)
{
	int udp = binding->encapsulation == ENCAPSULATION_UDP;
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = tos,
		.tot_len = bpf_htons(inner->total + header_bytes(FAMILY_IPV4, udp)),
		.frag_off = bpf_htons(IP_DF),
		.ttl = ttl,
		.protocol = udp ? IPPROTO_UDP : inner->family == FAMILY_IPV6 ? IPPROTO_IPV6 : IPPROTO_IPIP,
		.saddr = binding->node.word[3],
		.daddr = binding->care_of.word[3],
	};

	ip.check = header_checksum(&ip);
	return ip;
}

/*
 * An outer IPv6 header (RFC 2473), without the option that would limit encapsulations: nodes count hops instead, see above.
 *
 *   14 bytes   40 bytes                                  the packet as it came
 *   +--------+-----------------------------------------+--------------------------------+
 *   | Eth    | IPv6, next header 4 or 41, hop limit 64 | IPv4 or IPv6 | TCP ...         |
 *   |        | this node -> care-of address            | remote -> home address         |
 *   +--------+-----------------------------------------+--------------------------------+
 *
 * or, with UDP, next header 17 and 8 bytes of outer_udp behind it. The flow label tells flows apart on their way (RFC 6438).
 */
static __always_inline struct ipv6hdr outer_ipv6(const struct binding *binding, const struct tuple *inner, __u8 tos, __u8 ttl)
{
	int udp = binding->encapsulation == ENCAPSULATION_UDP;
	__u32 label = flow_hash(inner) >> 12 & FLOW_LABEL;
	struct ipv6hdr ip = {
		.payload_len = bpf_htons(inner->total + (udp ? sizeof(struct udphdr) : 0)),
		.nexthdr = udp ? IPPROTO_UDP : inner->family == FAMILY_IPV6 ? IPPROTO_IPV6 : IPPROTO_IPIP,
		.hop_limit = ttl,
	};

	*(__be32 *)&ip = bpf_htonl(6U << 28 | (__u32)tos << 20 | label);
	__builtin_memcpy(&ip.saddr, &binding->node, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &binding->care_of, sizeof(ip.daddr));
	return ip;
}

/*
 * The UDP header between the two IP headers: Generic UDP Encapsulation, variant 1 (draft-ietf-intarea-gue, 4: IP directly in
 * UDP, its version in the first bits).
 *
 *   +---------------------------+------------------+--------+--------------+
 *   | source: of the flow       | tunnel_port      | length | checksum 0   |
 *   +---------------------------+------------------+--------+--------------+
 *
 * No checksum. Over IPv4 that is every sender's right (RFC 768). Over IPv6 RFC 6935 grants it to tunnels which meet RFC 6936,
 * 5: what is inside has checksums of its own that cover its addresses and ports, and a packet whose outer addresses or ports
 * have been damaged gets no further than the test for a known node, our port and a live binding. The sum over the whole
 * packet is not to be had in XDP, where the packet may be longer than what a program can read.
 */
static __always_inline struct udphdr outer_udp(const struct binding *binding, const struct tuple *inner)
{
	return (struct udphdr){
		.source = bpf_htons(FLOW_PORTS | flow_hash(inner) >> 18),
		.dest = binding->tunnel_port,
		.len = bpf_htons(inner->total + sizeof(struct udphdr)),
	};
}

#endif
