/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Correspondents on the home node itself. What they and a departed process say to each other goes over `lo` at home, where
 * hp_loopback takes it, and over `lo` of the pod, where hp_inside does; between the two it is in a tunnel.
 *
 *   home                                               care-of host
 *   lo egress: hp_loopback --> tunnel --> uplink ----> hp_xdp/hp_ingress --> pod's eth0: hp_entry --> pod's stack
 *   lo ingress <-- hp_ingress <---------- uplink <---- tunnel <-- hp_pod <-- pod's eth0 <-- hp_inside: pod's lo egress
 *
 * 127.0.0.1 and ::1 are addresses of every machine. In `ports`, `port_blocks` and `flows` they stand for those of one home:
 * its own address, its first word marked, which no packet on a wire can have.
 */
#ifndef HOMEPROXY_LOOPBACK_H
#define HOMEPROXY_LOOPBACK_H

#include "lookup.h"

#define LOOPBACK_IFINDEX 1
#define LOOPBACK_IPV4 0x7f000001
/*
 * CRIU's own packets (SOCCR_MARK of soccr/soccr.h): a restored socket that had heard its correspondent's FIN is told of it once
 * more, by a segment over `lo` that nobody must park.
 */
#define MARK_CRIU 0xc114

static __always_inline int is_loopback(const struct address *address)
{
	if (address->word[0] || address->word[1])
		return 0;
	return address->word[2] ? address->word[2] == bpf_htonl(0xffff) && address->word[3] == bpf_htonl(LOOPBACK_IPV4)
				: address->word[3] == bpf_htonl(1);
}

/* The addresses of a packet between loopback addresses become what stands for those of the node that has the address `home`. */
static __always_inline void name_loopback(struct tuple *t, const volatile struct address *home)
{
	for (int i = 0; i < 4; i++)
		t->source.word[i] = home->word[i];
	t->source.word[0] ^= bpf_htonl(t->family == FAMILY_IPV6 ? LOOPBACK_MARK_IPV6 : LOOPBACK_MARK_IPV4);
	t->destination = t->source;
	t->loopback = 1;
}

/* 1 when no bit is set, without a branch. */
static __always_inline __u64 is_zero(__u64 bits)
{
	asm volatile("" : "+r"(bits)); /* or the compiler would make one */
	return (bits - 1) >> 63;
}

/* The same, if it is one. Without branches: whatever follows would be verified twice. */
static __always_inline void localize(struct tuple *t, const volatile struct address *home)
{
	const __u32 *from = t->source.word, *to = t->destination.word;
	__u64 neither = from[0] | from[1] | to[0] | to[1];
	__u64 six = is_zero(neither | from[2] | to[2] | (from[3] ^ bpf_htonl(1)) | (to[3] ^ bpf_htonl(1)));
	__u64 four = is_zero(neither | (from[2] ^ bpf_htonl(0xffff)) | (to[2] ^ bpf_htonl(0xffff)) |
			     (from[3] ^ bpf_htonl(LOOPBACK_IPV4)) | (to[3] ^ bpf_htonl(LOOPBACK_IPV4)));
	__u32 mask = 0 - (__u32)(six | four);
	__u32 mark = bpf_htonl(LOOPBACK_MARK_IPV6) * (__u32)six | bpf_htonl(LOOPBACK_MARK_IPV4) * (__u32)four;

	for (int i = 0; i < 4; i++) {
		__u32 name = home->word[i] ^ (i ? 0 : mark);

		t->source.word[i] ^= (t->source.word[i] ^ name) & mask;
		t->destination.word[i] ^= (t->destination.word[i] ^ name) & mask;
	}
	t->loopback = six | four;
}

/* One of a packet's addresses as the packet has it. */
static __always_inline struct address unlocalized(const struct tuple *t, const struct address *address)
{
	if (!t->loopback)
		return *address;
	if (t->family == FAMILY_IPV6)
		return (struct address){ .word = { 0, 0, 0, bpf_htonl(1) } };
	return mapped(bpf_htonl(LOOPBACK_IPV4));
}

/* Whether the address is one of this node's own. */
static __always_inline int is_local(const struct address *address)
{
	return bpf_map_lookup_elem(&local_addresses, address) != NULL;
}

/* Frames on `lo` have no addresses, and no others are so. */
static __always_inline int is_of_loopback(const struct __sk_buff *skb)
{
	struct ethhdr eth;
	const __u16 *half = (const __u16 *)&eth;

	return !bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) && !(half[0] | half[1] | half[2] | half[3] | half[4] | half[5]);
}

/*
 * Into this namespace's own stack as if it had come over `lo`, which is the one interface that takes a packet whose source is
 * an own address (accept_local), or whose addresses are loopback's (route_localnet; RFC 4291, 2.5.3).
 */
static __always_inline int tc_loop_back(struct __sk_buff *skb, enum reason *reason)
{
	struct ethhdr eth = { .h_proto = skb->protocol };

	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0)) {
		*reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	skb->mark = 0;
	return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
}

#endif
