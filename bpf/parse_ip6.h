/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6 (RFC 8200) with its extension headers. Included by parse.h, which has the rest. */
#ifndef HOMEPROXY_PARSE_IP6_H
#define HOMEPROXY_PARSE_IP6_H

#include <linux/ipv6.h>

/* The common start of extension headers; each is at least 8 bytes long. */
struct extension {
	__u8 next;
	__u8 length;   /* in units, see below; a fragment header's is reserved */
	__be16 second; /* routing: type and segments left; fragment: offset and M flag */
	__be32 id;     /* of a fragment header */
};

/* RFC 8200, 4.1 names six kinds. What has more is left to the kernel. */
#define EXTENSIONS 6
#define EXTENSION_BYTES 0x0fff /* as a mask; the longest has 2048. Twice six of them stay below 64 KiB, the bound of a packet offset */
#define IP6_OFFSET 0xfff8
#define IP6_MF 0x0001
#define SEGMENTS_LEFT 0x00ff

/*
 * How to step over a header: (length if KEEP + ADD) << SHIFT bytes. By table and without branches, because the verifier
 * follows every sequence of branches through the loop: with them it took 11 s, without them as long as for IPv4.
 */
#define EXTENSION 0x80
#define EXTENSION_KEEP 0x40
#define EXTENSION_FRAGMENT 0x20
#define EXTENSION_ROUTING 0x10
#define EXTENSION_ADD(kind) ((kind) >> 2 & 3)
#define EXTENSION_SHIFT(kind) ((kind) & 3)
#define ORDINARY (EXTENSION | EXTENSION_KEEP | 1 << 2 | 3)
const volatile __u8 extensions[256] = {
	[IPPROTO_HOPOPTS] = ORDINARY,
	[IPPROTO_DSTOPTS] = ORDINARY,
	[IPPROTO_ROUTING] = ORDINARY | EXTENSION_ROUTING,
	[IPPROTO_FRAGMENT] = EXTENSION | EXTENSION_FRAGMENT | 1 << 2 | 3,
	[IPPROTO_AH] = EXTENSION | EXTENSION_KEEP | 2 << 2 | 2, /* RFC 4302, 2.2 */
};

/* All bits of a mask when a flag is set, else none. */
#define IF_SET(kind, flag) (-(__u32)!!((kind) & (flag)))

/* Walks to the transport header; leaves its protocol and offset, and what a fragment header says. */
static __always_inline enum parsed skip_extensions(void *data, void *end, struct tuple *tuple, __u8 next, __u32 at)
{
	__u32 fragment = 0;
	__u32 segments_left = 0;
	__u32 id = 0;
	__u8 kind = extensions[next];

	for (int i = 0; i < EXTENSIONS && kind && !(fragment & bpf_htons(IP6_OFFSET)); i++) {
		struct extension *extension = data + at;

		asm volatile("" : "+r"(extension)); /* one pointer, else clang checks the one and reads by the other */
		if ((void *)(extension + 1) > end)
			return PARSED_MALFORMED;
		fragment |= extension->second & IF_SET(kind, EXTENSION_FRAGMENT);
		segments_left |= extension->second & bpf_htons(SEGMENTS_LEFT) & IF_SET(kind, EXTENSION_ROUTING);
		id |= extension->id & IF_SET(kind, EXTENSION_FRAGMENT);
		__u32 units = (extension->length & IF_SET(kind, EXTENSION_KEEP)) + EXTENSION_ADD(kind);
		__u32 bytes = units << EXTENSION_SHIFT(kind);

		asm volatile("" : "+r"(bytes)); /* clang knows the bound of it, the verifier does not */
		at += bytes & EXTENSION_BYTES;
		next = extension->next;
		kind = extensions[next];
	}
	tuple->protocol = next;
	tuple->l4 = at;
	tuple->fragment_id = id;
	tuple->fragment = FRAGMENT_NONE;
	if (fragment & bpf_htons(IP6_OFFSET))
		tuple->fragment = FRAGMENT_LATER; /* what follows is the middle of something */
	else if (fragment & bpf_htons(IP6_MF))
		tuple->fragment = FRAGMENT_FIRST;
	/* Before the end of its route a packet's destination is not its last. */
	return segments_left || (kind && tuple->fragment != FRAGMENT_LATER) ? PARSED_OTHER : PARSED;
}

static __always_inline enum parsed parse_ipv6(void *data, void *end, __u32 offset, struct tuple *tuple, int quoted)
{
	struct ipv6hdr *ip = data + offset;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return PARSED_MALFORMED;
	tuple->family = FAMILY_IPV6;
	__builtin_memcpy(&tuple->source, &ip->saddr, sizeof(tuple->source));
	__builtin_memcpy(&tuple->destination, &ip->daddr, sizeof(tuple->destination));
	tuple->total = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	tuple->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	tuple->ttl = ip->hop_limit;
	tuple->df = 1;
	tuple->source_port = 0;
	tuple->destination_port = 0;
	tuple->syn = 0;
	tuple->l3 = offset;
	enum parsed parsed = skip_extensions(data, end, tuple, ip->nexthdr, offset + sizeof(*ip));

	if (parsed != PARSED)
		return parsed;
	tuple->headers = tuple->l4 - offset;
	return parse_transport(data, end, tuple, quoted);
}

#endif
