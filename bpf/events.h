/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs tell the controller about single packets. */
#ifndef HOMEPROXY_EVENTS_H
#define HOMEPROXY_EVENTS_H

#include "constants.h"
#include "maps.h"
#include "parse.h"
#include "scratch.h"

/* Room for some 2,600 events. What does not fit is counted as suppressed. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/*
 * In .bss, which belongs to this load of the programs and is not pinned: after a restart nobody traces. Read on the fast path,
 * as one load; a map would cost a search for the same answer.
 */
volatile struct trace_settings tracing = {};
/* Brings the layout of an event into the type information. */
const volatile struct event abi_event = {};

/* Drops of one reason, and all samples together, that one CPU may report each second. */
#define DROPS_PER_SECOND 50
#define SAMPLES_PER_SECOND 1000
#define SAMPLES COUNTERS_PER_HOOK
#define EVENT_SECOND_NS 1000000000ULL

struct event_bucket {
	__u64 since;
	__u32 events;     /* in the current second */
	__u32 suppressed; /* since the last one that was reported */
};

/* By reason, so that a flood of one does not hide another; the last is for the samples. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SAMPLES + 1);
	__type(key, __u32);
	__type(value, struct event_bucket);
} event_buckets SEC(".maps");

static __always_inline int is_sampled(__u32 reason, __u32 binding)
{
	if (!(tracing.reasons & (1ULL << (reason & 63))) || (tracing.binding && tracing.binding != binding))
		return 0;
	__u32 one_in = tracing.one_in;

	return one_in == 1 || (one_in && bpf_get_prandom_u32() % one_in == 0);
}

/*
 * The flow of the packet as it is now, at the program's end: read again rather than kept, so that those that are not reported do
 * not pay for it. Inside a tunnel it is the inner one, and in our own answer the one that it quotes.
 */
static __always_inline void describe_flow(void *data, void *end, struct event *event)
{
	struct scratch *scratch = get_scratch();

	if (!scratch)
		return;
	struct tuple *t = &scratch->reported; /* the callers have filled the stack */

	*t = (struct tuple){};
	parse_frame(data, end, t);
	if (t->protocol == IPPROTO_IPIP || t->protocol == IPPROTO_IPV6)
		parse_ip(data, end, bounded(t->l4), t, 1);
	else if (t->protocol == IPPROTO_UDP && tunnel_port && t->destination_port == tunnel_port)
		parse_ip(data, end, bounded(t->l4 + sizeof(struct udphdr)), t, 1);
	else if (event->verdict == VERDICT_ANSWER)
		parse_ip(data, end, bounded(t->l4 + sizeof(struct icmp_header)), t, 1);
	event->source = t->source;
	event->destination = t->destination;
	event->source_port = t->source_port;
	event->destination_port = t->destination_port;
	event->protocol = t->protocol;
}

/* Whether a packet is to be reported at all: the only thing that is asked on the fast path. */
static __always_inline int is_reported(enum verdict verdict)
{
	return __builtin_expect(verdict == VERDICT_DROP || verdict == VERDICT_ANSWER || tracing.one_in, 0);
}

/* Hook, reason and verdict in one register: a function that is not inlined takes five. */
#define WHAT(hook, reason, verdict) ((hook) << 16 | (reason) << 8 | (verdict))

static __always_inline int write_event(void *data, void *end, __u32 what, __u32 binding, __u32 length, __u32 ifindex)
{
	__u8 hook = what >> 16;
	__u8 reason = what >> 8;
	__u8 verdict = what;
	int dropped = verdict == VERDICT_DROP || verdict == VERDICT_ANSWER;

	if (!dropped && !is_sampled(reason, binding))
		return 0;
	__u32 index = dropped ? reason & (SAMPLES - 1) : SAMPLES;
	struct event_bucket *bucket = bpf_map_lookup_elem(&event_buckets, &index);
	__u64 now = bpf_ktime_get_ns();

	if (!bucket)
		return 0;
	if (now - bucket->since > EVENT_SECOND_NS) {
		bucket->since = now;
		bucket->events = 0;
	}
	struct event *event = NULL;

	if (bucket->events < (dropped ? DROPS_PER_SECOND : SAMPLES_PER_SECOND))
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		bucket->suppressed++;
		return 0;
	}
	*event = (struct event){
		.time = now,
		.ifindex = ifindex,
		.binding = binding,
		.length = length,
		.suppressed = bucket->suppressed,
		.hook = hook,
		.reason = reason,
		.verdict = verdict,
	};
	describe_flow(data, end, event);
	bpf_ringbuf_submit(event, 0);
	bucket->events++;
	bucket->suppressed = 0;
	return 0;
}

/* Not inlined, as their callers' other paths must not pay for them in registers. */
static __noinline int write_xdp_event(struct xdp_md *ctx, __u32 what, __u32 binding, __u32 length)
{
	return write_event((void *)(long)ctx->data, (void *)(long)ctx->data_end, what, binding, length, ctx->ingress_ifindex);
}

static __noinline int write_tc_event(struct __sk_buff *skb, __u32 what, __u32 binding, __u32 length)
{
	return write_event((void *)(long)skb->data, (void *)(long)skb->data_end, what, binding, length, skb->ifindex);
}

static __always_inline enum verdict xdp_verdict(int verdict)
{
	if (verdict == XDP_PASS)
		return VERDICT_PASS;
	return verdict == XDP_TX || verdict == XDP_REDIRECT ? VERDICT_REDIRECT : VERDICT_DROP;
}

/* A packet whose sender got an answer in its place leaves by a redirect: the frame is the answer's by now. */
static __always_inline enum verdict tc_verdict(int verdict, __u32 reason)
{
	if (verdict == TC_ACT_SHOT)
		return VERDICT_DROP;
	if (verdict != TC_ACT_REDIRECT)
		return VERDICT_PASS;
	return reason == REASON_TOO_BIG ? VERDICT_ANSWER : VERDICT_REDIRECT;
}

/* Called once per packet, beside count(). */
static __always_inline void xdp_report(struct xdp_md *ctx, __u32 hook, __u32 reason, int xdp, __u32 binding, __u32 length)
{
	enum verdict verdict = xdp_verdict(xdp);

	if (is_reported(verdict))
		write_xdp_event(ctx, WHAT(hook, reason, verdict), binding, length);
}

static __always_inline void tc_report(struct __sk_buff *skb, __u32 hook, __u32 reason, int tc, __u32 binding, __u32 length)
{
	enum verdict verdict = tc_verdict(tc, reason);

	if (is_reported(verdict))
		write_tc_event(skb, WHAT(hook, reason, verdict), binding, length);
}

#endif
