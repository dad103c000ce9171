/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_CONSTANTS_H
#define HOMEPROXY_CONSTANTS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/*
 * This node's own address, and that of the other family when it has one: outer destinations of what is tunnelled to us. Set
 * before the load; zero: none.
 */
const volatile struct address node_address = {};
const volatile struct address other_address = {};

/* UDP port on which tunnels arrive here, network order. Set before the load; 0: none. */
const volatile __be16 tunnel_port = 0;

/*
 * Whether XDP_TX may be used to send back through the interface that a packet came by. Not on veth: there it wakes the peer
 * only if the peer has an XDP program (veth_xdp_flush); without one its ring fills, and the link is dead for everybody
 * (measured, 6.18). A redirect to the same interface wakes a peer that has GRO on as well.
 */
const volatile __u8 transmit_in_place = 1;

/* 0: every packet takes the general path. What becomes of it must be the same (test/packet/fast-path.test.ts). */
const volatile __u8 fast_path = 1;

/* Brings the shared enums into the object's type information, from which the controller reads them. */
struct abi_enums {
	enum action action;
	enum egress egress;
	enum hold hold;
	enum device_role device_role;
	enum hook hook;
	enum reason reason;
	enum counters counters;
	enum verdict verdict;
	enum fast_kind fast_kind;
	enum fast_number fast_number;
	enum layout_number layout;
	enum encapsulation encapsulation;
	enum loopback_mark loopback_mark;
};
const volatile struct abi_enums abi_enums = {};

#define OUTER_TTL 64 /* RFC 2003, 3.1: set by the encapsulator, independent of the inner TTL; RFC 2473, 6.3 */
#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
/* BPF_F_ADJ_ROOM_DECAP_L3_*: since 6.3, and younger than the headers that we build with. */
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L3_IPV6 (1ULL << 8)

/* The verdict for what is passed: on to the filters of others behind ours (linux/pkt_cls.h). TC_ACT_OK would end the search. */
#define TC_ACT_UNSPEC -1
#define TC_ACT_SHOT 2
#define TC_ACT_REDIRECT 7

#endif
