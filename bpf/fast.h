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

/* The binding of a connection on a port that its process shares with others; 0: none. */
static __always_inline __u32 fast_shared(void *data)
{
	struct flow_key flow = {
		.local = mapped(read(__be32, AT_DESTINATION)),
		.remote = mapped(read(__be32, AT_SOURCE)),
		.local_port = read(__be16, AT_DESTINATION_PORT),
		.remote_port = read(__be16, AT_SOURCE_PORT),
		.protocol = read(__u8, AT_PROTOCOL),
	};
	struct flow_entry *entry = bpf_map_lookup_elem(&flows, &flow);

	return entry ? entry->binding : 0;
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
 * Puts the outer header before the packet, as outer_ipv4() in encapsulate.h builds it:
 *
 *   14 bytes   20 bytes                                  the packet as it came
 *   +--------+-----------------------------------------+------------------------+
 *   | Eth    | IPv4, protocol 4, TTL 64, DF            | IPv4 | TCP ...         |
 *   +--------+-----------------------------------------+------------------------+
 */
static __always_inline int fast_tunnel(struct xdp_md *ctx, __u32 id, __u8 tos, __u32 total, __u64 bytes)
{
	struct fast_binding *binding = bpf_map_lookup_elem(&fast_bindings, &id);

	if (!binding)
		return GENERAL_PATH;
	__u32 version = *(volatile __u32 *)&binding->version;
	const struct fast_route *route = &binding->routes[version & 1];

	if (!version || total + OUTER > route->mtu || may_exceed_path(total + OUTER) || bpf_xdp_adjust_head(ctx, -OUTER))
		return GENERAL_PATH;
	void *data = (void *)(long)ctx->data;

	if (data + AT_IP + OUTER > (void *)(long)ctx->data_end)
		return XDP_DROP; /* cannot be: it has just grown */
	const __u64 *from = (const __u64 *)route;
	__u64 first = from[0], second = from[1], third = from[2], fourth = from[3];
	__u16 last = ((const __u16 *)route)[16];
	__u32 ifindex = route->ifindex;
	__be16 length = bpf_htons(total + OUTER);
	__u32 sum = route->sum + bpf_htons(tos) + length;

	asm volatile("" ::: "memory");
	if (*(volatile __u32 *)&binding->version != version) { /* written to meanwhile */
		bpf_xdp_adjust_head(ctx, OUTER);
		return GENERAL_PATH;
	}
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

	struct counter *own = bpf_map_lookup_elem(&fast_counters, &id);

	if (own)
		add_to(own, bytes);
	fast_count(HOOK_XDP, REASON_TUNNELLED, bytes);
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

	return id ? fast_tunnel(ctx, id, read(__u8, AT_IP + 1), plain.total, bytes) : GENERAL_PATH;
}

#endif
