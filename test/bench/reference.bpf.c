/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the datapath is measured beside: each does part of an encapsulator's work, and nothing else. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HOME bpf_htonl(0x0a000002)
#define CARE_OF bpf_htonl(0x0a000003)

/* The exact flow, as small as it can be for IPv4. */
struct flow {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

struct tunnel {
	__be32 care_of;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow);
	__type(value, struct tunnel);
} tunnels SEC(".maps");

/* 0: done; anything else is the verdict. */
static __always_inline int parse(struct xdp_md *ctx, struct flow *flow, __u16 *total)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) > end)
		return XDP_DROP;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->version != 4 || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	struct tcphdr *tcp = (void *)ip + ip->ihl * 4;

	if ((void *)(tcp + 1) > end)
		return XDP_DROP;
	flow->source = ip->saddr;
	flow->destination = ip->daddr;
	flow->source_port = tcp->source;
	flow->destination_port = tcp->dest;
	flow->protocol = ip->protocol;
	*total = bpf_ntohs(ip->tot_len);
	return 0;
}

/* Puts the outer header before the packet; the Ethernet header gets the addresses of a constant next hop. */
static __always_inline int prepend(struct xdp_md *ctx, const struct iphdr *outer)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return XDP_DROP;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*eth = (struct ethhdr){
		.h_dest = { 2, 0, 0, 0, 0, 3 },
		.h_source = { 2, 0, 0, 0, 0, 2 },
		.h_proto = bpf_htons(ETH_P_IP),
	};
	*ip = *outer;
	return XDP_TX;
}

SEC("xdp")
int return_at_once(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int tc_return_at_once(struct __sk_buff *skb)
{
	return 0;
}

/* The floor of any encapsulator: parse, prepend a header that never changes, return. */
SEC("xdp")
int constant_header(struct xdp_md *ctx)
{
	struct flow flow;
	__u16 total;
	int verdict = parse(ctx, &flow, &total);
	struct iphdr outer;

	if (verdict)
		return verdict;
	/* Word by word: clang 14 drops the stores before a copy of a constant structure. */
	__u32 *word = (__u32 *)&outer;

	word[0] = bpf_htonl(0x45000054); /* 84 bytes */
	word[1] = bpf_htonl(0x00004000); /* DF */
	word[2] = bpf_htonl(0x400426a2); /* TTL 64, protocol 4, checksum */
	word[3] = HOME;
	word[4] = CARE_OF;
	asm volatile("" ::"r"(flow.source), "r"(flow.destination_port) : "memory"); /* or nothing would be parsed */
	return prepend(ctx, &outer);
}

/* One search for the exact flow in one preallocated table, and a real outer header. */
SEC("xdp")
int hash_reference(struct xdp_md *ctx)
{
	struct flow flow;
	__u16 total;
	int verdict = parse(ctx, &flow, &total);

	if (verdict)
		return verdict;
	struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &flow);

	if (!tunnel)
		return XDP_PASS;
	struct iphdr outer = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(total + sizeof(struct iphdr)),
		.frag_off = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = IPPROTO_IPIP,
		.saddr = HOME,
		.daddr = tunnel->care_of,
	};
	__u16 *half = (__u16 *)&outer;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	outer.check = ~sum;
	return prepend(ctx, &outer);
}

char _license[] SEC("license") = "Dual BSD/GPL";
