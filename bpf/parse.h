/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
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

/* What a parser found in one IPv4 packet. */
struct tuple {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 l4; /* offset of the transport header from the start of the frame */
	__u16 total; /* length of the IP packet by its own header, in bytes */
	__u16 headers; /* of it, its IP and transport headers */
	__u8 protocol;
	__u8 tos;
	__u8 ttl;
	__u8 df;
	__u8 syn; /* a TCP SYN without ACK: the start of a connection */
};

enum parsed {
	PARSED = 0,
	PARSED_OTHER,     /* not IPv4, or a fragment: not ours to judge */
	PARSED_MALFORMED, /* its headers do not fit the packet */
};

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
	tuple->source = ip->saddr;
	tuple->destination = ip->daddr;
	tuple->protocol = ip->protocol;
	tuple->total = bpf_ntohs(ip->tot_len);
	tuple->tos = ip->tos;
	tuple->ttl = ip->ttl;
	tuple->df = !!(ip->frag_off & bpf_htons(IP_DF));
	tuple->source_port = 0;
	tuple->destination_port = 0;
	tuple->syn = 0;
	tuple->l4 = offset + header;
	tuple->headers = header;
	if (ip->frag_off & bpf_htons(IP_OFFSET | IP_MF))
		return PARSED_OTHER;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return PARSED;
	struct udphdr *ports = data + tuple->l4; /* TCP's begin alike */

	if ((void *)(ports + 1) > end)
		return PARSED_MALFORMED;
	tuple->source_port = ports->source;
	tuple->destination_port = ports->dest;
	tuple->headers += sizeof(*ports);
	if (ip->protocol == IPPROTO_UDP || quoted)
		return PARSED;
	struct tcphdr *tcp = data + tuple->l4;

	if ((void *)(tcp + 1) > end || tcp->doff * 4 < sizeof(*tcp))
		return PARSED_MALFORMED;
	tuple->syn = tcp->syn && !tcp->ack;
	tuple->headers = header + tcp->doff * 4;
	return PARSED;
}

/* Whether the packet at `offset` is as long as its header says; what follows it in the frame is padding. */
static __always_inline int is_whole(const struct tuple *tuple, __u32 offset, __u32 frame_length)
{
	return tuple->total >= tuple->headers && offset + tuple->total <= frame_length;
}

static __always_inline enum parsed parse_frame(void *data, void *end, struct tuple *tuple)
{
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return PARSED_MALFORMED;
	if (eth->h_proto != bpf_htons(ETH_TYPE_IPV4))
		return PARSED_OTHER;
	return parse_ipv4(data, end, sizeof(*eth), tuple, 0);
}

static __always_inline struct address mapped(__be32 ipv4)
{
	return (struct address){ .word = { 0, 0, bpf_htonl(0xffff), ipv4 } };
}

#endif
