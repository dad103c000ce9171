/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two programs in a pod's own network namespace: see loopback.h. They know nothing of bindings. */
#ifndef HOMEPROXY_INSIDE_H
#define HOMEPROXY_INSIDE_H

#include "count.h"
#include "events.h"
#include "fast.h"
#include "homeward.h"
#include "tc_actions.h"

/* Whether somebody in this namespace has the socket that the packet is for. */
static __always_inline int has_socket(struct __sk_buff *skb, const struct tuple *t)
{
	struct bpf_sock_tuple ends = {};
	struct bpf_sock *socket;
	__u32 size = sizeof(ends.ipv4);

	if (t->family == FAMILY_IPV6) {
		__builtin_memcpy(ends.ipv6.saddr, &t->source, sizeof(ends.ipv6.saddr));
		__builtin_memcpy(ends.ipv6.daddr, &t->destination, sizeof(ends.ipv6.daddr));
		ends.ipv6.sport = t->source_port;
		ends.ipv6.dport = t->destination_port;
		size = sizeof(ends.ipv6);
	} else {
		ends.ipv4.saddr = t->source.word[3];
		ends.ipv4.daddr = t->destination.word[3];
		ends.ipv4.sport = t->source_port;
		ends.ipv4.dport = t->destination_port;
	}
	/* of TCP also those in TIME_WAIT and at the begin of a handshake */
	if (t->protocol == IPPROTO_TCP)
		socket = (void *)bpf_skc_lookup_tcp(skb, &ends, size, BPF_F_CURRENT_NETNS, 0);
	else
		socket = bpf_sk_lookup_udp(skb, &ends, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	bpf_sk_release(socket);
	return 1;
}

static __always_inline int inside(struct __sk_buff *skb, enum reason *reason)
{
	struct tuple t = {};

	pull_headers(skb);
	enum parsed parsed = parse_frame((void *)(long)skb->data, (void *)(long)skb->data_end, &t);

	*reason = parsed == PARSED_MALFORMED ? REASON_MALFORMED : REASON_NOT_PARSED;
	if (parsed != PARSED || t.fragment == FRAGMENT_LATER || (t.protocol != IPPROTO_TCP && t.protocol != IPPROTO_UDP))
		return TC_ACT_UNSPEC;
	*reason = REASON_INTERNAL;
	if (skb->mark == MARK_CRIU || has_socket(skb, &t))
		return TC_ACT_UNSPEC;
	/* the pod's end of its link, which the filter has as its class: the one thing about a pod that its programs know */
	__u32 link = skb->tc_classid & 0xffff;
	struct ethhdr eth = { .h_dest = HOMEWARD_MAC, .h_source = HOMEWARD_MAC, .h_proto = skb->protocol };

	*reason = REASON_NO_ROOM;
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	*reason = REASON_HOMEWARD;
	return bpf_redirect(link, 0);
}

/* Egress of the pod's `lo`: what is for nobody in the pod, though for an address of it, is for somebody at home. */
SEC("tc")
int hp_inside(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;
	enum reason reason = REASON_MALFORMED;
	int verdict = inside(skb, &reason);

	count(HOOK_INSIDE, reason, 0, bytes);
	tc_report(skb, HOOK_INSIDE, reason, verdict, 0, bytes);
	return verdict;
}

/* Whether a packet is for an address of IPv4 that is not loopback's, as nearly all are. */
static __always_inline int fast_enters(struct __sk_buff *skb)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);

	return fast_path && !tracing.one_in && (void *)(ip + 1) <= (void *)(long)skb->data_end &&
	       eth->h_proto == bpf_htons(ETH_P_IP) && ip->daddr != bpf_htonl(LOOPBACK_IPV4);
}

/* Ingress of the pod's end of its link: loopback's packets are taken from `lo` alone. */
SEC("tc")
int hp_entry(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	if (fast_enters(skb)) {
		fast_count(HOOK_ENTRY, REASON_DELIVERED, bytes);
		return TC_ACT_UNSPEC;
	}
	enum reason reason = REASON_DELIVERED;
	struct tuple t = {};
	int verdict = TC_ACT_UNSPEC;

	pull_headers(skb);
	if (parse_frame((void *)(long)skb->data, (void *)(long)skb->data_end, &t) == PARSED && is_loopback(&t.destination)) {
		reason = REASON_LOOPED_BACK;
		verdict = tc_loop_back(skb, &reason);
	}
	count(HOOK_ENTRY, reason, 0, bytes);
	tc_report(skb, HOOK_ENTRY, reason, verdict, 0, bytes);
	return verdict;
}

#endif
