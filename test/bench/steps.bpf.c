/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The product's encapsulation (bpf/fast.h) taken apart: each program does what the one before it does and one thing more, and
 * hp_xdp does the last. What the nanoseconds between the floor and an encapsulation are spent on.
 */
#include "fast.h"

#define ONLY_BINDING 1 /* of whose process all packets are */

/* Whether the packet is one that the fast path serves. */
static __always_inline int is_served(struct xdp_md *ctx, struct plain *plain)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	return fast_path && read_plain(data, end, end - data, AT_DESTINATION_PORT, plain) && !plain->starts;
}

static __always_inline int leave(struct xdp_md *ctx, __u32 id, __u32 total)
{
	void *data = (void *)(long)ctx->data;

	if (data + FAST_HEADERS > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__u32 ifindex = fast_outer(ctx, id, *(__u8 *)(data + AT_IP + 1), total);

	return ifindex ? fast_leave(ctx, ifindex) : XDP_DROP;
}

/* Is sure of what the packet is, and prepends the header that is in a table, with length, TOS and checksum of its own. */
SEC("xdp")
int step_route(struct xdp_md *ctx)
{
	struct plain plain;

	if (!is_served(ctx, &plain))
		return XDP_DROP;
	asm volatile("" ::"r"(plain.place)); /* or the port would not be read */
	return leave(ctx, ONLY_BINDING, plain.total);
}

/* And asks whether the port is of anybody who departed. */
SEC("xdp")
int step_filter(struct xdp_md *ctx)
{
	struct plain plain;

	if (!is_served(ctx, &plain) || is_foreign(plain.place))
		return XDP_DROP;
	return leave(ctx, ONLY_BINDING, plain.total);
}

/* And of whom. What is left to hp_xdp is to count. */
SEC("xdp")
int step_owner(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct plain plain;

	if (!is_served(ctx, &plain) || is_foreign(plain.place))
		return XDP_DROP;
	return leave(ctx, fast_owner(data, end, &plain, AT_DESTINATION), plain.total);
}

char _license[] SEC("license") = "Dual BSD/GPL";
