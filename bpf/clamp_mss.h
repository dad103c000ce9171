/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The largest segment that an end of a new connection offers to take (RFC 9293, 3.7.1) is made to fit into the tunnel, if what it
 * takes comes through one. So the other's packets fit from the start, also where "too big" is filtered. It is never raised.
 *
 * What a correspondent offers stays as it is: a departed process answers straight, or through a reverse tunnel, for which its pod's
 * link has room. With less, a sender of 128 KiB at a time has a third packet for each (2 of 45 segments of 1428 bytes, and 1).
 */
#ifndef HOMEPROXY_CLAMP_MSS_H
#define HOMEPROXY_CLAMP_MSS_H

#include "scratch.h"

#define OPTION_END 0
#define OPTION_NOTHING 1
#define OPTION_MSS 2
#define OPTION_MSS_BYTES 4
#define NO_LIMIT 65535   /* no MSS is larger: nothing is clamped */
#define OPTIONS 20 /* most that are looked at; those of a SYN are four, with one or two OPTION_NOTHING */
#define OPTIONS_BYTES 40 /* most that a TCP header has room for */

/* TCP options; what is not there is OPTION_END. */
struct tcp_options {
	__u8 byte[OPTIONS_BYTES];
};

/*
 * The MSS that the options offer from `at` on, and in the upper 16 bits where in them it is; negative: none, or they are malformed.
 * A function of its own, so that the verifier goes through its loop once; and as it does not know where the loop begins, one turn
 * is like another to it (a hundredth of the work).
 */
__noinline int find_mss(const struct tcp_options *options, __u32 at)
{
	if (!options)
		return -1;
	for (int i = 0; i < OPTIONS && at <= OPTIONS_BYTES - OPTION_MSS_BYTES; i++) {
		__u32 kind = options->byte[at];
		__u32 length = options->byte[at + 1];

		if (kind == OPTION_MSS)
			return length == OPTION_MSS_BYTES ? (int)(at + 2) << 16 | options->byte[at + 2] << 8 | options->byte[at + 3]
							  : -1;
		if (kind == OPTION_END || (kind != OPTION_NOTHING && length < 2))
			return -1;
		if (kind == OPTION_NOTHING)
			length = 1;
		at += length;
		asm volatile("" : "+r"(at));
	}
	return -1;
}

/* Bytes of TCP payload that fit into an IP packet of so many, with headers that have no options (RFC 6691). */
static __always_inline __u32 mss_of(__u8 family, __u32 mtu)
{
	__u32 headers = (family == FAMILY_IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr);

	return mtu > headers ? mtu - headers : NO_LIMIT;
}

/* A SYN with or without ACK, whole, which alone offers an MSS. */
static __always_inline int offers_mss(const struct tuple *t)
{
	return t->syn && !t->fragment && t->headers > t->l4 - t->l3 + sizeof(struct tcphdr);
}

/* A value of 16 bits at an odd offset adds to the checksum with its bytes exchanged (RFC 1071, 2 (B)). */
static __always_inline __u16 as_summed(__u32 at, __be16 value)
{
	return at & 1 ? __builtin_bswap16(value) : value;
}

/*
 * Clamps the MSS in the TCP header at `l4`, which has `length` bytes of options. A function of its own, which the verifier goes
 * through once, and not on every way that leads to a tunnel.
 */
__noinline int clamp_in_tc(struct __sk_buff *skb, __u32 l4, __u32 length, __u32 most)
{
	struct tcp_options options = {};
	__u32 start = l4 + sizeof(struct tcphdr);

	if (length < 1 || length > sizeof(options) || bpf_skb_load_bytes(skb, start, &options, length))
		return -1;
	int mss = find_mss(&options, 0);
	__u32 at = mss >> 16;
	__be16 offered = bpf_htons(mss & 0xffff);
	__be16 fits = bpf_htons(most);

	if (mss < 0 || at + sizeof(fits) > length || (mss & 0xffff) <= most) /* cut off: what follows is no option */
		return -1;
	/* The kernel knows whether the checksum is there yet, or left to a network card: then the helper leaves it alone. */
	if (bpf_l4_csum_replace(skb, l4 + __builtin_offsetof(struct tcphdr, check), as_summed(at, offered), as_summed(at, fits),
				sizeof(fits)))
		return -1;
	return bpf_skb_store_bytes(skb, start + at, &fits, sizeof(fits), 0);
}

/* Bytes of options in the TCP header of a packet that offers an MSS. */
static __always_inline __u32 options_of(const struct tuple *t)
{
	return t->headers - (t->l4 - t->l3) - sizeof(struct tcphdr);
}

/* Clamps what a packet offers to an IP packet of `mtu` bytes. */
static __always_inline void tc_clamp_mss(struct __sk_buff *skb, const struct tuple *t, __u32 mtu)
{
	clamp_in_tc(skb, t->l4, options_of(t), mss_of(t->family, mtu));
}

#endif
