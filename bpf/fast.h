/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The commonest packets, decided with nothing but arrays: each search in a hash table costs more than all the rest of an
 * encapsulation (measured: 35 ns hot, hundreds when it is not in the cache; parsing and the outer header together 15). They are
 *
 *   - whole IPv4 packets of TCP or UDP without IP options to a port of nobody who departed, and
 *   - such packets, no SYN, to a process that is away behind a next hop that is known and with room for the outer header.
 *
 * All others, all cases of doubt, and everything while somebody traces, go on to the general path (decide.h), which would come to
 * the same decision. What tc does with the same arrays, and more, is in fast_tc.h.
 */
#ifndef HOMEPROXY_FAST_H
#define HOMEPROXY_FAST_H

#include "constants.h"
#include "count.h"
#include "events.h"
#include "maps.h"
#include "parse.h"
#include "path_mtu.h"

#define GENERAL_PATH -2 /* no verdict of XDP's, nor of tc's */

/* Offsets in an Ethernet frame with an IPv4 packet without options. */
#define AT_TYPE 12
#define AT_IP 14
#define AT_TOTAL 16
#define AT_FRAGMENT 20
#define AT_PROTOCOL 23
#define AT_SOURCE 26
#define AT_DESTINATION 30
#define AT_SOURCE_PORT 34
#define AT_DESTINATION_PORT 36
#define AT_TCP_LENGTH 46
#define AT_TCP_FLAGS 47
#define FAST_HEADERS 54
#define OUTER 20
#define TCP_SYN 2

#define read(type, at) (*(const type *)(data + (at)))

static __always_inline void fast_count(__u32 hook, __u32 reason, __u64 bytes)
{
	__u32 index = hook * COUNTERS_PER_HOOK + reason;
	struct counter *total = bpf_map_lookup_elem(&counters, &index);

	if (total)
		add_to(total, bytes);
}

/* A whole IPv4 packet of TCP or UDP without IP options. */
struct plain {
	__u32 total;   /* bytes of the IP packet, */
	__u32 headers; /* and of its headers */
	__u32 place;   /* of its local port, in `port_filter` and `fast_ports` */
	__u8 starts;   /* a SYN */
	__u8 udp;
};

/* Whether there are the first bytes of an IPv4 packet without options that is no fragment. Whose it is nobody has to be told. */
static __always_inline int is_plain_ipv4(void *data, void *end)
{
	return !tracing.one_in && data + AT_IP + sizeof(struct iphdr) <= end && read(__be16, AT_TYPE) == bpf_htons(ETH_P_IP) &&
	       read(__u8, AT_IP) == 0x45 && !(read(__be16, AT_FRAGMENT) & bpf_htons(IP_OFFSET | IP_MF));
}

/* Reads the packet whose header is AT_IP bytes behind `data`, with `bytes` from there to the end of the frame. */
static __always_inline int read_plain_packet(void *data, void *end, __u64 bytes, __u32 at_port, struct plain *plain)
{
	if (data + FAST_HEADERS > end || read(__u8, AT_IP) != 0x45 || read(__be16, AT_FRAGMENT) & bpf_htons(IP_OFFSET | IP_MF))
		return 0;
	__u32 headers = sizeof(struct iphdr);

	plain->udp = 0;
	plain->total = bpf_ntohs(read(__be16, AT_TOTAL));
	plain->place = bpf_ntohs(read(__be16, at_port));
	plain->starts = 0;
	if (read(__u8, AT_PROTOCOL) == IPPROTO_TCP) {
		__u32 words = read(__u8, AT_TCP_LENGTH) >> 4;

		if (words < 5)
			return 0;
		headers += 4 * words;
		plain->starts = read(__u8, AT_TCP_FLAGS) & TCP_SYN;
	} else if (read(__u8, AT_PROTOCOL) == IPPROTO_UDP) {
		if (read(__be16, AT_DESTINATION_PORT) == tunnel_port)
			return 0; /* it may be a tunnel's, for whatever port */
		headers += sizeof(struct udphdr);
		plain->place += 65536;
		plain->udp = 1;
	} else {
		return 0;
	}
	plain->headers = headers;
	return plain->total >= headers && AT_IP + plain->total <= bytes;
}

/* Reads a frame of `bytes` whose local port is at `at_port`; 0: it is none of these, or somebody traces. */
static __always_inline int read_plain(void *data, void *end, __u64 bytes, __u32 at_port, struct plain *plain)
{
	return is_plain_ipv4(data, end) && read_plain_packet(data, end, bytes, at_port, plain);
}

/* Whether nobody who departed has the port. */
static __always_inline int is_foreign(__u32 place)
{
	__u32 word = place / 64;
	__u64 *filter = bpf_map_lookup_elem(&port_filter, &word);

	return filter && !(*filter & (1ULL << (place % 64)));
}

/* The line of `fast_flows` that a flow has its copy in: cli/forwarding/fast-flows.ts has the same. */
static __always_inline __u32 fast_line_of(__be32 remote, __u32 ports)
{
	__u32 mixed = remote * 0x9e3779b1;

	return ((mixed ^ mixed >> 15 ^ ports) * 0x85ebca6b) >> (32 - FAST_LINE_BITS);
}

/*
 * The binding of a connection on a port that its process shares with others; 0: it has no copy, or one that is being written: an
 * owner that was read between two times the same ends is, or was just now, theirs.
 */
static __always_inline __u32 fast_shared(void *data)
{
	__be32 remote = read(__be32, AT_SOURCE);
	__u32 ports = read(__u32, AT_SOURCE_PORT); /* both */
	__u64 who = (__u64)ports << 32 | remote;
	__u32 index = fast_line_of(remote, ports);
	struct fast_line *line = bpf_map_lookup_elem(&fast_flows, &index);

	if (!line)
		return 0;
	__u64 whose = (__u64)read(__u8, AT_PROTOCOL) << 16 << 32 | read(__be32, AT_DESTINATION);
	volatile __u64 *way = (volatile __u64 *)line;

#pragma unroll
	for (int i = 0; i < FAST_WAYS; i++, way += 2) {
		if (way[0] != who)
			continue;
		__u64 found = way[1] ^ whose;

		if (found & 0xffff0000ffffffff) /* another local address or protocol, or nobody's */
			continue;
		return way[0] == who ? found >> 32 : 0;
	}
	return 0;
}

/* The binding whose a packet's local end is, which has its address at `at_local`; 0: nobody's, or it takes more to know. */
static __always_inline __u32 fast_owner(void *data, void *end, const struct plain *plain, __u32 at_local)
{
	union {
		__u64 whole;
		struct fast_port port;
	} entry;
	__u64 *found = bpf_map_lookup_elem(&fast_ports, &plain->place);

	if (!found || data + FAST_HEADERS > end)
		return 0;
	entry.whole = *(volatile __u64 *)found;
	if (entry.port.local != read(__be32, at_local))
		return 0;
	if (entry.port.kind == FAST_OWN)
		return entry.port.binding;
	return entry.port.kind == FAST_SHARED && at_local == AT_DESTINATION ? fast_shared(data) : 0;
}

/*
 * Whether an interface takes frames from XDP: the one that this packet came by does, and each that has the program itself. There is
 * no way from native XDP to a bridge, a VXLAN, or a NIC that has no queues for it: what is redirected there is dropped behind the
 * program's end, where nobody counts it (ndo_xdp_xmit; xdp_do_redirect tells a tracepoint alone).
 */
static __always_inline int takes_frames(const struct xdp_md *ctx, __u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex || bpf_map_lookup_elem(&outlets, &ifindex);
}

/*
 * Puts the outer header before the packet, as outer_ipv4() in encapsulate.h builds it:
 *
 *   14 bytes   20 bytes                                  the packet as it came
 *   +--------+-----------------------------------------+------------------------+
 *   | Eth    | IPv4, protocol 4, TTL 64, DF            | IPv4 | TCP ...         |
 *   +--------+-----------------------------------------+------------------------+
 *
 * and says by which interface it leaves; 0: the packet is as it came, for the general path.
 */
static __always_inline __u32 fast_outer(struct xdp_md *ctx, __u32 id, __u8 tos, __u32 total)
{
	struct fast_binding *binding = bpf_map_lookup_elem(&fast_bindings, &id);

	if (!binding)
		return 0;
	__u32 version = *(volatile __u32 *)&binding->version;
	const struct fast_route *route = &binding->routes[version & 1];
	__u32 ifindex = route->ifindex;

	if (!version || total + OUTER > route->mtu || may_exceed_path(total + OUTER) || !takes_frames(ctx, ifindex) ||
	    bpf_xdp_adjust_head(ctx, -OUTER))
		return 0;
	void *data = (void *)(long)ctx->data;

	if (data + AT_IP + OUTER > (void *)(long)ctx->data_end)
		goto undo; /* cannot be: it has just grown */
	const __u64 *from = (const __u64 *)route;
	__u64 first = from[0], second = from[1], third = from[2], fourth = from[3];
	__u16 last = ((const __u16 *)route)[16];
	__be16 length = bpf_htons(total + OUTER);
	__u32 sum = route->sum + bpf_htons(tos) + length;

	asm volatile("" ::: "memory");
	if (*(volatile __u32 *)&binding->version != version)
		goto undo; /* written to meanwhile */
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	__u64 *to = data;

	to[0] = first;
	to[1] = second;
	to[2] = third;
	to[3] = fourth;
	((__u16 *)data)[16] = last;
	((__u8 *)data)[AT_IP + 1] = tos;
	((__be16 *)data)[AT_TOTAL / 2] = length;
	((__u16 *)data)[(AT_IP + 10) / 2] = ~sum;
	return ifindex;
undo:
	bpf_xdp_adjust_head(ctx, OUTER);
	return 0;
}

/* Counts a packet that goes into a binding's tunnel. */
static __always_inline void fast_count_tunnelled(__u32 hook, __u32 id, __u64 bytes)
{
	struct counter *own = bpf_map_lookup_elem(&fast_counters, &id);

	if (own)
		add_to(own, bytes);
	fast_count(hook, REASON_TUNNELLED, bytes);
}

/* The verdict for a packet that goes out by the interface `ifindex`. */
static __always_inline int fast_leave(struct xdp_md *ctx, __u32 ifindex)
{
	if (transmit_in_place && ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(ifindex, 0);
}

/* The verdict for a packet that arrived on an uplink, counted; or GENERAL_PATH. */
static __always_inline int fast_arrival(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 bytes = end - data;
	struct plain plain;

	if (!fast_path || !read_plain(data, end, bytes, AT_DESTINATION_PORT, &plain))
		return GENERAL_PATH;
	if (is_foreign(plain.place)) {
		fast_count(HOOK_XDP, REASON_NOT_OURS, bytes);
		return XDP_PASS;
	}
	if (plain.starts)
		return GENERAL_PATH;
	__u32 id = fast_owner(data, end, &plain, AT_DESTINATION);
	__u32 ifindex = id ? fast_outer(ctx, id, read(__u8, AT_IP + 1), plain.total) : 0;

	if (!ifindex)
		return GENERAL_PATH;
	fast_count_tunnelled(HOOK_XDP, id, bytes);
	return fast_leave(ctx, ifindex);
}

#endif
