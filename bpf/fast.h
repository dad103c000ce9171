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

/* Counts what was done for a process that is here: REASON_DELIVERED, REASON_SENT or REASON_AT_HOME. */
static __always_inline void fast_count_guest(__u32 hook, __u32 reason, __u32 id, __u64 bytes)
{
	struct guest_counts *own = bpf_map_lookup_elem(&guest_counters, &id);

	if (!own) {
		count(hook, reason, id, bytes);
		return;
	}
	add_to(reason == REASON_DELIVERED ? &own->delivered : reason == REASON_SENT ? &own->sent : &own->at_home, bytes);
	fast_count(hook, reason, bytes);
}

/* A whole IPv4 packet of TCP or UDP without IP options. */
struct plain {
	__u32 total;   /* bytes of the IP packet, */
	__u32 headers; /* and of its headers */
	__u32 place;   /* of its local port, in `port_filter` and `fast_ports` */
	__u8 starts;   /* a SYN */
	__u8 udp;
};

/* Two words of a frame: type, version and header's length, before the TOS; and flags, offset and protocol, around the TTL. */
#define IS_IPV4(word) (((word) & bpf_htonl(0xffffff00)) == bpf_htonl(ETH_P_IP << 16 | 0x4500))
#define WHOLE(word) ((word) & bpf_htonl((IP_OFFSET | IP_MF) << 16 | 0xff))

/* Whether it is an IPv4 packet without options that is read here: nobody has to be told of it. */
static __always_inline int is_ipv4_for_us(void *data)
{
	return !tracing.one_in && IS_IPV4(read(__be32, AT_TYPE));
}

/* Whether there are the first bytes of such a packet that is no fragment. */
static __always_inline int is_plain_ipv4(void *data, void *end)
{
	return data + AT_IP + sizeof(struct iphdr) <= end && is_ipv4_for_us(data) &&
	       !(read(__be16, AT_FRAGMENT) & bpf_htons(IP_OFFSET | IP_MF));
}

/* Reads the place of a packet of FAST_HEADERS or more; 0: it is a fragment, or neither of TCP nor of UDP. */
static __always_inline int read_place(void *data, __u32 at_port, struct plain *plain)
{
	__be32 kind = WHOLE(read(__be32, AT_FRAGMENT));

	plain->place = bpf_ntohs(read(__be16, at_port));
	plain->udp = kind == bpf_htonl(IPPROTO_UDP);
	if (plain->udp)
		plain->place += 65536;
	return plain->udp || kind == bpf_htonl(IPPROTO_TCP);
}

/* Reads the rest, with `bytes` from `data` to the end of the frame; 0: its lengths do not fit. */
static __always_inline int read_lengths(void *data, __u64 bytes, struct plain *plain)
{
	__u32 headers = sizeof(struct iphdr) + sizeof(struct udphdr);

	plain->total = bpf_ntohs(read(__be16, AT_TOTAL));
	plain->starts = 0;
	if (!plain->udp) {
		__u32 words = read(__u8, AT_TCP_LENGTH) >> 4;

		if (words < 5)
			return 0;
		headers = sizeof(struct iphdr) + 4 * words;
		plain->starts = read(__u8, AT_TCP_FLAGS) & TCP_SYN;
	} else if (read(__be16, AT_DESTINATION_PORT) == tunnel_port) {
		return 0; /* it may be a tunnel's, for whatever port */
	}
	plain->headers = headers;
	return plain->total >= headers && AT_IP + plain->total <= bytes;
}

/* Reads the packet whose header is AT_IP bytes behind `data`, with `bytes` from there to the end of the frame. */
static __always_inline int read_plain_packet(void *data, void *end, __u64 bytes, __u32 at_port, struct plain *plain)
{
	return data + FAST_HEADERS <= end && read(__u8, AT_IP) == 0x45 && read_place(data, at_port, plain) &&
	       read_lengths(data, bytes, plain);
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
	__u32 place = plain->place; /* of its own: else all of `plain` would lie in memory, for this search */
	__u64 *found = bpf_map_lookup_elem(&fast_ports, &place);

	if (!found || data + FAST_HEADERS > end)
		return 0;
	entry.whole = *(volatile __u64 *)found;
	if (entry.port.local != read(__be32, at_local))
		return 0;
	if (__builtin_expect(entry.port.kind == FAST_OWN, 1))
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
 * The route of a binding. By a branch: a processor reads on behind the one that it foretells, where an index would have it wait for
 * the version (measured: 1 ns). The controller keeps to odd versions, lest it foretell wrong.
 */
static __always_inline const struct fast_route *fast_route_of(const struct fast_binding *binding, __u32 version)
{
	const struct fast_route *route = &binding->routes[1];

	if (!(version & 1)) {
		route = &binding->routes[0];
		asm volatile("" : "+r"(route)); /* or the compiler makes an index of it */
	}
	asm volatile("" ::: "memory"); /* what is read of it is read behind the version */
	return route;
}

/* The verdict for a packet that goes out by an interface; XDP_ABORTED: it takes no frames from here. */
static __always_inline int fast_verdict(const struct xdp_md *ctx, __u32 ifindex)
{
	if (transmit_in_place && ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return takes_frames(ctx, ifindex) ? XDP_REDIRECT : XDP_ABORTED;
}

/*
 * Puts the outer header before the packet, as outer_ipv4() in encapsulate.h builds it:
 *
 *   14 bytes   20 bytes                                  the packet as it came
 *   +--------+-----------------------------------------+------------------------+
 *   | Eth    | IPv4, protocol 4, TTL 64, DF            | IPv4 | TCP ...         |
 *   +--------+-----------------------------------------+------------------------+
 *
 * and says with which verdict it leaves; GENERAL_PATH: it is as it came.
 */
static __always_inline int fast_outer(struct xdp_md *ctx, const struct fast_binding *binding, __u8 tos, __u32 total)
{
	__u32 version = *(const volatile __u32 *)&binding->version;
	const struct fast_route *route = fast_route_of(binding, version);
	__u32 ifindex = route->ifindex;

	if (!version || total + OUTER > route->mtu || may_exceed_path(total + OUTER))
		return GENERAL_PATH;
	int verdict = fast_verdict(ctx, ifindex);

	if (verdict == XDP_ABORTED || bpf_xdp_adjust_head(ctx, -OUTER))
		return GENERAL_PATH;
	void *data = (void *)(long)ctx->data;

	if (data + AT_IP + OUTER > (void *)(long)ctx->data_end)
		goto undo; /* cannot be: it has just grown */
	const __u64 *from = (const __u64 *)route;
	__u64 first = from[0], second = from[1], third = from[2], fourth = from[3];
	__u16 last = ((const __u16 *)route)[16];
	__be16 length = bpf_htons(total + OUTER);
	__u32 sum = route->sum + bpf_htons(tos) + length;

	asm volatile("" ::: "memory");
	if (*(const volatile __u32 *)&binding->version != version)
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
	return verdict == XDP_TX ? XDP_TX : bpf_redirect(ifindex, 0);
undo:
	bpf_xdp_adjust_head(ctx, OUTER);
	return GENERAL_PATH;
}

/*
 * The verdict for a packet that arrived on an uplink, counted; or GENERAL_PATH.
 *
 * The searches from the port to the header wait for one another, and those for the counters are long: they begin as soon as the
 * packet is known to have a port. Whether its lengths fit is found out while they go on (measured: 3 ns of 17).
 */
static __always_inline int fast_arrival(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 bytes = end - data;
	struct plain plain;

	if (!fast_path || data + FAST_HEADERS > end || !is_ipv4_for_us(data) || !read_place(data, AT_DESTINATION_PORT, &plain))
		return GENERAL_PATH;
	if (is_foreign(plain.place)) {
		if (!read_lengths(data, bytes, &plain))
			return GENERAL_PATH;
		fast_count(HOOK_XDP, REASON_NOT_OURS, bytes);
		return XDP_PASS;
	}
	__u32 id = fast_owner(data, end, &plain, AT_DESTINATION);
	__u32 tunnelled = HOOK_XDP * COUNTERS_PER_HOOK + REASON_TUNNELLED;
	struct fast_binding *binding = bpf_map_lookup_elem(&fast_bindings, &id); /* of id 0 there is no copy */
	struct counter *own = bpf_map_lookup_elem(&fast_counters, &id);
	struct counter *all = bpf_map_lookup_elem(&counters, &tunnelled);

	if (!binding || !own || !all || !read_lengths(data, bytes, &plain) || plain.starts)
		return GENERAL_PATH;
	int verdict = fast_outer(ctx, binding, read(__u8, AT_IP + 1), plain.total);

	if (verdict == GENERAL_PATH)
		return GENERAL_PATH;
	add_to(own, bytes);
	add_to(all, bytes);
	return verdict;
}

#endif
