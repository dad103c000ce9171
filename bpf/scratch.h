/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory in which tc takes a packet apart: more than a program's stack holds. One per CPU, which runs one program at a time. */
#ifndef HOMEPROXY_SCRATCH_H
#define HOMEPROXY_SCRATCH_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "parse.h"

#define SCRATCH_BYTES 16384 /* a power of two above jumbo frames */
#define PIECE_BYTES 8192    /* most that is taken from it at once, from its last byte on in the eyes of the verifier */
#define SUM_CHUNK 512       /* most that bpf_csum_diff takes before 6.13 */

/* A "too big" to be written: what to say, and about which bytes of the frame. */
struct too_big {
	struct address from;
	struct address to;
	__u32 mtu;
	__u32 at;     /* offset in the frame of the packet that it is about */
	__u32 length; /* how much of that is in the frame */
	__u8 family;  /* of the answer and of what it quotes */
	__u8 carried; /* the family of the frame's outermost header */
	__u8 pad[2];
};

struct answer_ipv4 {
	struct iphdr ip;
	struct icmp_header icmp;
};

struct answer_ipv6 {
	struct ipv6hdr ip;
	struct icmp_header icmp; /* its MTU is the whole second word */
};

/* The headers of a tunnel's frame, without padding between them: an outer header of one of four kinds. */
struct outer_frame {
	struct ethhdr eth;
	union {
		struct {
			struct iphdr ip;
			struct udphdr udp;
		} ipv4;
		struct {
			struct ipv6hdr ip;
			struct udphdr udp;
		} ipv6;
	};
} __attribute__((packed));

/* A packet that goes through the tunnel in pieces. */
struct split {
	struct outer_frame head; /* that of the first piece */
	__u32 outer;   /* bytes of the outer header */
	__u32 payload; /* bytes that the packet carries, */
	__u32 step;    /* and that each piece but the last does */
	__u32 ifindex; /* where they leave */
	__u32 inner[5]; /* the IPv4 header of a piece */
};

struct scratch {
	struct too_big message;
	struct split split;
	union {
		struct answer_ipv4 ipv4;
		struct answer_ipv6 ipv6;
	} answer;
	struct tuple outer; /* a tunnel packet that an ICMP error quotes, */
	struct tuple inner; /* and what is in it */
	struct tuple judged; /* what this node sends, */
	struct tuple reported; /* a packet of which an event tells */
	__u8 packet[SCRATCH_BYTES + PIECE_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *get_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* The sum of 32 bits in 16, with every carry brought round (RFC 1071, 4.1): the first addition may carry again. */
static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/*
 * One's complement sum of `length` bytes of the scratch from an even offset on, to be folded, added to `sum`. Leaves zeros
 * behind them. A function of its own, so that the verifier goes through its loop once and not at every call.
 */
__noinline __u32 sum_scratch(__u32 from, __u32 length, __u32 sum)
{
	struct scratch *scratch = get_scratch();

	if (!scratch || from >= SCRATCH_BYTES || length > SCRATCH_BYTES - from)
		return 0;
	__u32 end = from + length;

	if (end > SCRATCH_BYTES)
		return 0;
	__builtin_memset(&scratch->packet[end], 0, 4);
	for (int i = 0; i < SCRATCH_BYTES / SUM_CHUNK; i++) {
		if (from >= end || from >= SCRATCH_BYTES)
			break;
		__u32 size = (end - from + 3) & ~3U;

		if (size > SUM_CHUNK)
			size = SUM_CHUNK;
		sum = bpf_csum_diff(0, 0, (__be32 *)&scratch->packet[from], size, sum);
		from += SUM_CHUNK;
	}
	return sum;
}

#endif
