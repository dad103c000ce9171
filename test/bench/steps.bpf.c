/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The product's encapsulation (bpf/fast.h) taken apart: each program does what the one before it does and one thing more. The last
 * does all that hp_xdp does, which has the general path beside it. What the nanoseconds between the floor and an encapsulation are
 * spent on.
 */
#include "fast.h"

#define ONLY_BINDING 1 /* of whose process all packets are */

/* In the order of fast_arrival(), without the counters. */
static __always_inline int encapsulate(struct xdp_md *ctx, int asks_filter, int asks_owner)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct plain plain;

	if (!fast_path || data + FAST_HEADERS > end || !is_ipv4_for_us(data) || !read_place(data, AT_DESTINATION_PORT, &plain))
		return XDP_DROP;
	asm volatile("" ::"r"(plain.place)); /* or the port would not be read */
	if (asks_filter && is_foreign(plain.place))
		return XDP_DROP;
	__u32 id = asks_owner ? fast_owner(data, end, &plain, AT_DESTINATION) : ONLY_BINDING;
	struct fast_binding *binding = bpf_map_lookup_elem(&fast_bindings, &id);

	if (!binding || !read_lengths(data, end - data, &plain) || plain.starts)
		return XDP_DROP;
	int verdict = fast_outer(ctx, binding, *(__u8 *)(data + AT_IP + 1), plain.total);

	return verdict == GENERAL_PATH ? XDP_DROP : verdict;
}

/* Is sure of what the packet is, and prepends the header that is in a table, with length, TOS and checksum of its own. */
SEC("xdp")
int step_route(struct xdp_md *ctx)
{
	return encapsulate(ctx, 0, 0);
}

/* And asks whether the port is of anybody who departed. */
SEC("xdp")
int step_filter(struct xdp_md *ctx)
{
	return encapsulate(ctx, 1, 0);
}

/* And of whom. */
SEC("xdp")
int step_owner(struct xdp_md *ctx)
{
	return encapsulate(ctx, 1, 1);
}

/* And counts, for the node and for the binding. */
SEC("xdp")
int step_count(struct xdp_md *ctx)
{
	int verdict = fast_arrival(ctx);

	return verdict == GENERAL_PATH ? XDP_DROP : verdict;
}

char _license[] SEC("license") = "Dual BSD/GPL";
