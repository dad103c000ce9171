/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads what a frame is: Ethernet, VLAN tags, IPv4 here and IPv6 in parse_ip6.h, the ports of TCP and UDP. */
#ifndef HOMEPROXY_PARSE_H
#define HOMEPROXY_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "constants.h"

/* linux/icmp.h drags in the C library's headers, which do not exist for this target. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 unused;
	__be16 mtu; /* of "fragmentation needed" (RFC 1191) */
};

#define ICMP_UNREACHABLE 3
#define ICMP_NEEDS_FRAGMENTATION 4 /* a code of the above */
#define ICMP_QUENCH 4
#define ICMP_EXCEEDED 11
#define ICMP_PROBLEM 12
#define ICMP6_TOO_BIG 2
#define ICMP6_INFORMATIONAL 128 /* types below are errors (RFC 4443, 2.1) */

#define FAMILY_IPV4 4
#define FAMILY_IPV6 6

enum fragment {
	FRAGMENT_NONE = 0,  /* a whole packet; an atomic fragment (RFC 6946) is one too */
	FRAGMENT_FIRST = 1, /* it has the transport header, and others follow */
	FRAGMENT_LATER = 2, /* no ports: (family, source, destination, fragment_id, protocol) say to which first one it belongs */
};

enum tag {
	TAG_NONE = 0,
	TAG_PRIORITY = 1, /* VLAN id 0 (802.1Q): a priority, and the interface's own network */
	TAG_VLAN = 2,     /* another network than the interface's own, though the packet may look like ours */
};

enum syn {
	SYN_NONE = 0,
	SYN_START = 1,  /* the start of a connection */
	SYN_ANSWER = 2, /* with ACK */
};

/* What a parser found in one packet, IPv4 or IPv6. */
struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 fragment_id; /* as it is in the packet: network order; IPv4's 16 bits in the lower half */
	__u32 l3;      /* offset of the IP header from the start of the frame */
	__u32 l4;      /* offset of the transport header from the start of the frame */
	__u32 total;   /* length of the IP packet by its own header, in bytes */
	__u32 headers; /* of it, its IP and transport headers */
	__u8 family;   /* FAMILY_IPV4 or FAMILY_IPV6 */
	__u8 protocol; /* of the transport header, behind IPv6's extension headers */
	__u8 tos;      /* or IPv6's traffic class */
	__u8 ttl;      /* or hop limit */
	__u8 df;       /* no router may fragment it: always so for IPv6 */
	__u8 syn;      /* enum syn */
	__u8 fragment; /* enum fragment */
	__u8 tag;      /* enum tag */
	__u8 loopback; /* the addresses are what stands for 127.0.0.1 (::1) of a home: see loopback.h */
};

enum parsed {
	PARSED = 0,
	PARSED_OTHER,     /* not IP, or IP of a kind that we do not read: not ours to judge */
	PARSED_MALFORMED, /* its headers do not fit the packet, or the bytes at hand */
};

/* An offset that the parser has found, for the verifier, which forgets its bound on the way: 32 KiB, more than headers take. */
static __always_inline __u32 bounded(__u32 offset)
{
	asm volatile("" : "+r"(offset));
	return offset & 0x7fff;
}

static __always_inline struct address mapped(__be32 ipv4)
{
	return (struct address){ .word = { 0, 0, bpf_htonl(0xffff), ipv4 } };
}

/* Reads the transport header at tuple->l4; of a quoted packet only the first 8 bytes are there (RFC 792). */
static __always_inline enum parsed parse_transport(void *data, void *end, struct tuple *tuple, int quoted)
{
	if (tuple->fragment == FRAGMENT_LATER || (tuple->protocol != IPPROTO_TCP && tuple->protocol != IPPROTO_UDP))
		return PARSED;
	struct udphdr *ports = data + tuple->l4; /* TCP's begin alike */

	if ((void *)(ports + 1) > end)
		return PARSED_MALFORMED;
	tuple->source_port = ports->source;
	tuple->destination_port = ports->dest;
	if (tuple->protocol == IPPROTO_UDP || quoted) {
		tuple->headers += sizeof(*ports);
		return PARSED;
	}
	struct tcphdr *tcp = data + tuple->l4;

	if ((void *)(tcp + 1) > end || tcp->doff * 4 < sizeof(*tcp))
		return PARSED_MALFORMED;
	tuple->syn = !tcp->syn ? SYN_NONE : tcp->ack ? SYN_ANSWER : SYN_START;
	tuple->headers += tcp->doff * 4;
	return PARSED;
}

/*
 * Reads the packet at `offset`. A quoted packet (in an ICMP error) is cut off after the first 8 bytes of its transport
 * header (RFC 792): enough for the ports.
 */
static __always_inline enum parsed parse_ipv4(void *data, void *end, __u32 offset, struct tuple *tuple, int quoted)
{
	struct iphdr *ip = data + offset;

	if ((void *)(ip + 1) > end)
		return PARSED_MALFORMED;
	__u32 header = ip->ihl * 4;

	if (ip->version != 4 || header < sizeof(*ip))
		return PARSED_MALFORMED;
	tuple->family = FAMILY_IPV4;
	tuple->source = mapped(ip->saddr);
	tuple->destination = mapped(ip->daddr);
	tuple->protocol = ip->protocol;
	tuple->total = bpf_ntohs(ip->tot_len);
	tuple->tos = ip->tos;
	tuple->ttl = ip->ttl;
	tuple->df = !!(ip->frag_off & bpf_htons(IP_DF));
	tuple->source_port = 0;
	tuple->destination_port = 0;
	tuple->syn = 0;
	tuple->l3 = offset;
	tuple->l4 = offset + header;
	tuple->headers = header;
	tuple->fragment = FRAGMENT_NONE;
	tuple->fragment_id = ip->id;
	if (ip->frag_off & bpf_htons(IP_OFFSET | IP_MF))
		tuple->fragment = ip->frag_off & bpf_htons(IP_OFFSET) ? FRAGMENT_LATER : FRAGMENT_FIRST;
	return parse_transport(data, end, tuple, quoted);
}

#include "parse_ip6.h"

/* The IP packet at `offset`, by the version in its first bits. */
static __always_inline enum parsed parse_ip(void *data, void *end, __u32 offset, struct tuple *tuple, int quoted)
{
	__u8 *first = data + offset;

	if ((void *)(first + 1) > end)
		return PARSED_MALFORMED;
	if (*first >> 4 == 6)
		return parse_ipv6(data, end, offset, tuple, quoted);
	return parse_ipv4(data, end, offset, tuple, quoted);
}

/* Whether the packet is as long as its header says; what follows it in the frame is padding. */
static __always_inline int is_whole(const struct tuple *tuple, __u32 frame_length)
{
	return tuple->total >= tuple->headers && tuple->l3 + tuple->total <= frame_length;
}

struct vlan_tag {
	__be16 control; /* priority (3 bits), drop eligible (1), VLAN id (12) */
	__be16 type;    /* of what follows */
};

#define VLAN_TAGS 2 /* a customer's tag in a provider's (802.1ad) */
#define VLAN_ID 0x0fff

static __always_inline int is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/*
 * Whose network a tagged frame is of. What it carries is not read: of another network than the interface's own it is none of
 * our business, and a priority tag (VLAN id 0) is taken off by tc before the packet is read there.
 */
static __always_inline enum tag read_tags(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct vlan_tag *tag = (void *)(eth + 1);
	__be16 type = eth->h_proto;

	for (int i = 0; i < VLAN_TAGS && is_vlan(type); i++, tag++) {
		if ((void *)(tag + 1) > end || (tag->control & bpf_htons(VLAN_ID)))
			return TAG_VLAN;
		type = tag->type;
	}
	return is_vlan(type) ? TAG_VLAN : TAG_PRIORITY;
}

/*
 * The packet in an Ethernet frame:
 *
 *   12     2      (2     2)  up to twice
 *   +------+------+------+------+----------------+
 *   | MACs | type | tag  | type | IPv4 or IPv6 ..|
 *   +------+------+------+------+----------------+
 */
static __always_inline enum parsed parse_frame(void *data, void *end, struct tuple *tuple)
{
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return PARSED_MALFORMED;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(data, end, sizeof(*eth), tuple, 0);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(data, end, sizeof(*eth), tuple, 0);
	if (is_vlan(eth->h_proto))
		tuple->tag = read_tags(data, end);
	return PARSED_OTHER;
}

#endif
