/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_XDP_H
#define HOMEPROXY_XDP_H

#include "count.h"
#include "decide.h"
#include "encapsulate.h"
#include "events.h"
#include "fast.h"
#include "path_mtu.h"

static __always_inline void set_macs(struct ethhdr *eth, const __u8 *destination, const __u8 *source, __u8 family)
{
	__builtin_memcpy(eth->h_dest, destination, ETH_ALEN);
	__builtin_memcpy(eth->h_source, source, ETH_ALEN);
	eth->h_proto = type_of(family);
}

/* Before the outer header goes: the inner one takes over what it is to know. */
static __always_inline void xdp_take_over_tos(void *data, void *end, const struct decision *d, const struct tuple *inner)
{
	struct iphdr *ip = data + sizeof(struct ethhdr) + d->outer;

	if (d->tos == inner->tos || (void *)(ip + 1) > end)
		return;
	write_tos(ip, inner->family, d->tos);
}

/* Removes the outer header; the Ethernet header moves up to the inner one, and takes its type. 0: done. */
static __always_inline int xdp_decapsulate(struct xdp_md *ctx, const struct decision *d, const struct tuple *inner)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	struct ethhdr copy = *eth;

	xdp_take_over_tos(eth, (void *)(long)ctx->data_end, d, inner);
	if (bpf_xdp_adjust_head(ctx, d->outer))
		return -1;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	*eth = copy;
	eth->h_proto = type_of(inner->family);
	return 0;
}

static __always_inline int write_outer_ipv4(struct ethhdr *eth, void *end, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)udp > end)
		return -1;
	*ip = outer_ipv4(binding, inner, d->tos, d->ttl);
	if (binding->encapsulation != ENCAPSULATION_UDP)
		return 0;
	if ((void *)(udp + 1) > end)
		return -1;
	*udp = outer_udp(binding, inner);
	return 0;
}

static __always_inline int write_outer_ipv6(struct ethhdr *eth, void *end, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)udp > end)
		return -1;
	*ip = outer_ipv6(binding, inner, d->tos, d->ttl);
	if (binding->encapsulation != ENCAPSULATION_UDP)
		return 0;
	if ((void *)(udp + 1) > end)
		return -1;
	*udp = outer_udp(binding, inner);
	return 0;
}

/* Puts the binding's outer header in place of the one that the packet came with, if any. */
static __always_inline int xdp_tunnel(struct xdp_md *ctx, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;
	__u8 family = outer_family(binding);
	int shorter = (int)d->outer - (int)overhead(binding);

	if (shorter && bpf_xdp_adjust_head(ctx, shorter))
		return XDP_DROP;
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	set_macs(eth, binding->next_hop.destination, binding->next_hop.source, family);
	if (family == FAMILY_IPV6 ? write_outer_ipv6(eth, end, d, inner) : write_outer_ipv4(eth, end, d, inner))
		return XDP_DROP;
	if (transmit_in_place && binding->next_hop.ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(binding->next_hop.ifindex, 0);
}

static __always_inline int xdp_deliver(struct xdp_md *ctx, const struct binding *binding, const struct tuple *inner)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	set_macs(eth, binding->pod_mac, binding->host_mac, inner->family);
	return bpf_redirect(binding->pod_ifindex, 0);
}

/*
 * What only tc can do: answer what is too big, ask the kernel for a neighbour, mark, know a replayed frame by its mark, and
 * send by any interface. All fragments go there, lest the small last one overtake those that must be split.
 */
static __always_inline int is_for_tc(const struct xdp_md *ctx, const struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;

	if (d->step == STEP_REVERSE || d->step == STEP_LOOP_BACK)
		return 1;
	__u32 length = inner->total + overhead(binding);

	if (d->step == STEP_TUNNEL)
		return inner->fragment || !binding->next_hop.resolved || length > mtu_of_path(binding, length) ||
		       !takes_frames(ctx, binding->next_hop.ifindex);
	return d->step == STEP_PARK && binding->action == ACTION_PASS && binding->draining;
}

/*
 * Whether a frame is longer than its link carries: generic XDP runs behind GRO and sees what the kernel has merged. Redirected, it
 * would be lost without a word where it is as long for the other interface (xdp_ok_fwd_dev), and nobody would cut it again.
 */
static __always_inline int is_merged(struct xdp_md *ctx, __u64 bytes)
{
	__u32 mtu = 0;

	return bytes > ETH_FRAME_LEN && bpf_check_mtu(ctx, 0, &mtu, 0, 0) == BPF_MTU_CHK_RET_FRAG_NEEDED;
}

/* Carries the decision out. A verdict of XDP_DROP without a reason of its own: the kernel refused to change the packet. */
static __always_inline int xdp_act(struct xdp_md *ctx, struct decision *d, const struct tuple *inner)
{
	const struct binding *binding = d->found.binding;

	if (d->step == STEP_PARK && !binding->park_ifindex) {
		d->reason = REASON_PARK_NO_QUEUE;
		return XDP_DROP;
	}
	int verdict = XDP_PASS;

	if (d->outer && d->step != STEP_TUNNEL && xdp_decapsulate(ctx, d, inner))
		verdict = XDP_DROP;
	else if (d->step == STEP_TUNNEL)
		verdict = xdp_tunnel(ctx, d, inner);
	else if (d->step == STEP_DELIVER)
		verdict = xdp_deliver(ctx, binding, inner);
	else if (d->step == STEP_PARK) {
		take_places(&d->found, 1);
		verdict = bpf_redirect(binding->park_ifindex, 0);
	}
	if (verdict == XDP_DROP)
		d->reason = REASON_NO_ROOM;
	return verdict;
}

SEC("xdp")
int hp_xdp(struct xdp_md *ctx)
{
	int fast = fast_arrival(ctx);

	if (fast != GENERAL_PATH)
		return fast;
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 bytes = end - data;
	struct tuple t = {};
	struct decision d = decide_arrival(data, end, bytes, &t, 0);
	int verdict = XDP_PASS;

	if (d.found.binding && d.step == STEP_DROP)
		verdict = XDP_DROP;
	else if (d.found.binding && (is_for_tc(ctx, &d, &t) || is_merged(ctx, bytes)))
		d = passed(REASON_SLOW_PATH); /* counted for the binding by tc */
	else if (d.found.binding)
		verdict = xdp_act(ctx, &d, &t);
	count(HOOK_XDP, d.reason, d.found.id, bytes);
	xdp_report(ctx, HOOK_XDP, d.reason, verdict, d.found.id, bytes);
	return verdict;
}

#endif
