/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_CONGESTION_H
#define HOMEPROXY_CONGESTION_H

#include "parse.h"

/* The two low bits of the TOS byte (RFC 3168). */
#define ECN_MASK 3
#define ECN_NOT_ECT 0
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE 3

/*
 * The TOS of a packet that leaves a tunnel (RFC 6040, 4.2). Negative: it met congestion and its ends do not know ECN, so that
 * the only way to tell them is to drop it.
 *
 *             | outer Not-ECT | ECT(0) | ECT(1) | CE
 *   Not-ECT   | Not-ECT       | Not-ECT| Not-ECT| drop
 *   ECT(0)    | ECT(0)        | ECT(0) | ECT(1) | CE
 *   ECT(1)    | ECT(1)        | ECT(1) | ECT(1) | CE
 *   CE        | CE            | CE     | CE     | CE
 */
static __always_inline int tos_after_tunnel(__u8 inner, __u8 outer)
{
	__u8 inner_ecn = inner & ECN_MASK;
	__u8 outer_ecn = outer & ECN_MASK;

	if (outer_ecn == ECN_CE)
		return inner_ecn == ECN_NOT_ECT ? -1 : inner | ECN_CE;
	if (outer_ecn == ECN_ECT1 && inner_ecn == ECN_ECT0)
		return (inner & ~ECN_MASK) | ECN_ECT1;
	return inner;
}

/* Changes the TOS of an IPv4 header and its checksum with it (RFC 1624, eqn. 3). */
static __always_inline void set_tos(struct iphdr *ip, __u8 tos)
{
	__u16 before = *(__u16 *)ip;

	ip->tos = tos;
	__u32 sum = (__u16)~ip->check + (__u16)~before + *(__u16 *)ip;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
}

/* The traffic class lies across the first two bytes of IPv6, which has no checksum of its own. */
static __always_inline void set_traffic_class(struct ipv6hdr *ip, __u8 class)
{
	ip->priority = class >> 4;
	ip->flow_lbl[0] = class << 4 | (ip->flow_lbl[0] & 0x0f);
}

/* Into a header of either family. */
static __always_inline void write_tos(void *ip, __u8 family, __u8 tos)
{
	if (family == FAMILY_IPV6)
		set_traffic_class(ip, tos);
	else
		set_tos(ip, tos);
}

#endif
