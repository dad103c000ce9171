/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_TC_H
#define HOMEPROXY_TC_H

#include "count.h"
#include "events.h"
#include "fast_tc.h"
#include "reverse.h"
#include "tc_actions.h"

/* Marks a frame that hp_replay sent back into the uplink's ingress, so that hp_ingress does not park it again. */
#define MARK_REPLAYED 0x6870726c
#define PACKET_HOST 0 /* linux/if_packet.h, which drags in what this target has not */

static __always_inline int ingress(struct __sk_buff *skb, struct decision *d)
{
	struct tuple t = {};

	/*
	 * The kernel has taken the outermost tag off the frame. With VLAN id 0 it is of the interface's own network, unless
	 * the tag behind it, which the kernel takes off next, says otherwise.
	 */
	if (skb->vlan_present && ((skb->vlan_tci & VLAN_ID) || bpf_skb_vlan_pop(skb) || skb->vlan_present)) {
		*d = passed(REASON_TAGGED);
		return TC_ACT_UNSPEC;
	}
	pull_headers(skb);
	*d = decide_arrival((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len, &t, 1);
	if (t.tag)
		d->reason = REASON_TAGGED; /* nobody to leave it to */
	if (skb->mark == MARK_HANDED_IN) {
		skb->mark = 0;
		bpf_skb_change_type(skb, PACKET_HOST);
	}
	if (skb->mark == MARK_REPLAYED) {
		skb->mark = 0;
		d->reason = REASON_REPLAYED_HOME;
		return TC_ACT_UNSPEC;
	}
	if (d->step == STEP_HEED)
		return tc_heed_too_big(skb, &t, &d->found, &d->reason);
	if (!d->found.binding)
		return TC_ACT_UNSPEC;
	if (d->step == STEP_DROP)
		return TC_ACT_SHOT;
	if (d->step == STEP_REVERSE)
		return tc_send_reversed(skb, d, &t, &d->reason);
	if (d->outer && d->step != STEP_TUNNEL && tc_decapsulate(skb, d, &t)) {
		d->reason = REASON_NO_ROOM;
		return TC_ACT_SHOT;
	}
	switch (d->step) {
	case STEP_PARK:
		return tc_park(skb, &d->found, &t, &d->reason);
	case STEP_TUNNEL:
		return tc_tunnel(skb, d, &t, 0, &d->reason);
	case STEP_DELIVER:
		return tc_hand_over(skb, d, &d->reason);
	case STEP_LOOP_BACK:
		d->reason = REASON_LOOPED_BACK;
		return tc_loop_back(skb, &d->reason);
	default:
		return TC_ACT_UNSPEC;
	}
}

SEC("tc")
int hp_ingress(struct __sk_buff *skb)
{
	int fast = fast_ingress(skb);

	if (fast != GENERAL_PATH)
		return fast;
	__u64 bytes = skb->len;
	struct decision d = {};
	int verdict = ingress(skb, &d);

	count(HOOK_INGRESS, d.reason, d.found.id, bytes);
	tc_report(skb, HOOK_INGRESS, d.reason, verdict, d.found.id, bytes);
	return verdict;
}

/*
 * What this node says, out of an uplink (`away`) or over its `lo`: nobody speaks for a process that is away, and what is for one
 * that is bound here goes where it is.
 */
static __always_inline int tc_judge(struct __sk_buff *skb, struct tuple *t, struct decision *d, int away)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	d->reason = REASON_GUARDED;
	d->found = find_speaker(data, end, t);
	if (d->found.binding && d->found.binding->egress == EGRESS_SHUT)
		return TC_ACT_SHOT;
	if (d->found.binding && d->found.binding->egress == EGRESS_HOLD) {
		d->reason = REASON_HELD;
		return tc_park(skb, &d->found, t, &d->reason);
	}
	__u32 speaker = d->found.binding ? d->found.id : 0;

	d->found = find_hearer(data, end, t);
	if (!d->found.binding) {
		d->found.id = speaker;
		d->reason = speaker ? REASON_AT_HOME : reason_of_nobody(t, REASON_NOT_OURS);
		return TC_ACT_UNSPEC;
	}
	/*
	 * Out of an uplink it goes to the home of the process, which knows where that is, or waits with it; only while it runs here
	 * for sure is that a detour.
	 */
	if (away) {
		d->reason = REASON_AT_HOME;
		if (d->found.binding->action != ACTION_DELIVER || !is_whole(t, skb->len))
			return TC_ACT_UNSPEC;
		int waits = must_wait(&d->found, t);

		d->reason = waits ? REASON_PARKED : REASON_DELIVERED;
		return waits ? tc_park(skb, &d->found, t, &d->reason) : tc_deliver(skb, d->found.binding, &d->reason);
	}
	/* A packet socket can say what no stack would, and the outer header would repeat it. "BIG TCP" says 0. */
	if (skb->len <= sizeof(struct ethhdr) + 65535 && !is_whole(t, skb->len)) {
		*d = passed(REASON_MALFORMED);
		return TC_ACT_UNSPEC;
	}
	*d = act(d->found, t, 0, must_wait(&d->found, t));
	switch (d->step) {
	case STEP_DROP:
		return TC_ACT_SHOT;
	case STEP_PARK:
		return tc_park(skb, &d->found, t, &d->reason);
	case STEP_TUNNEL:
		return tc_tunnel(skb, d, t, 1, &d->reason);
	case STEP_DELIVER:
		return tc_deliver(skb, d->found.binding, &d->reason);
	default:
		return TC_ACT_UNSPEC;
	}
}

static __always_inline int egress(struct __sk_buff *skb, struct decision *d)
{
	struct scratch *scratch = get_scratch();

	d->reason = REASON_NOT_PARSED;
	if (!scratch)
		return TC_ACT_UNSPEC;
	d->reason = REASON_TAGGED; /* sent through an interface of the VLAN's own (eth0.100), where it has been judged */
	if (skb->vlan_present)
		return TC_ACT_UNSPEC;
	if (skb->mark == MARK_ANSWER) { /* our own answer quotes a guarded flow: it is the one thing to be said about it */
		d->reason = REASON_TOO_BIG;
		return TC_ACT_UNSPEC;
	}
	/* The process itself, from where it is away. The mark stays on: while tcx takes over from a filter of ours, both judge. */
	if (skb->mark == MARK_REVERSED) {
		d->reason = REASON_REVERSED;
		return TC_ACT_UNSPEC;
	}
	if (skb->mark == MARK_PIECE) {
		skb->mark = 0;
		d->reason = REASON_SPLIT;
		return bpf_redirect_neigh(skb->ifindex, NULL, 0, 0);
	}
	struct tuple *t = &scratch->judged; /* there is no room for it on the stack */

	*t = (struct tuple){};
	pull_headers(skb);
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	enum parsed parsed = parse_frame(data, end, t);

	if (t->tag)
		return TC_ACT_UNSPEC;
	d->reason = parsed == PARSED_MALFORMED ? REASON_MALFORMED : REASON_NOT_PARSED;
	if (parsed != PARSED)
		return TC_ACT_UNSPEC;
	return tc_judge(skb, t, d, 1);
}

SEC("tc")
int hp_egress(struct __sk_buff *skb)
{
	int fast = fast_egress(skb);

	if (fast != GENERAL_PATH)
		return fast;
	__u64 bytes = skb->len;
	struct decision d = {};
	int verdict = egress(skb, &d);

	count(HOOK_EGRESS, d.reason, d.found.id, bytes);
	tc_report(skb, HOOK_EGRESS, d.reason, verdict, d.found.id, bytes);
	return verdict;
}

static __always_inline int loopback(struct __sk_buff *skb, struct decision *d)
{
	struct scratch *scratch = get_scratch();

	d->reason = REASON_NOT_PARSED;
	if (!scratch)
		return TC_ACT_UNSPEC;
	d->reason = REASON_INTERNAL;
	if (skb->mark == MARK_CRIU)
		return TC_ACT_UNSPEC;
	struct tuple *t = &scratch->judged;

	*t = (struct tuple){};
	pull_headers(skb);
	enum parsed parsed = parse_frame((void *)(long)skb->data, (void *)(long)skb->data_end, t);

	d->reason = parsed == PARSED_MALFORMED ? REASON_MALFORMED : REASON_NOT_PARSED;
	if (parsed != PARSED)
		return TC_ACT_UNSPEC;
	localize(t, &node_address);
	return tc_judge(skb, t, d, 0);
}

SEC("tc")
int hp_loopback(struct __sk_buff *skb)
{
	int fast = fast_loopback(skb);

	if (fast != GENERAL_PATH)
		return fast;
	__u64 bytes = skb->len;
	struct decision d = {};
	int verdict = loopback(skb, &d);

	count(HOOK_LOOPBACK, d.reason, d.found.id, bytes);
	tc_report(skb, HOOK_LOOPBACK, d.reason, verdict, d.found.id, bytes);
	return verdict;
}

static __always_inline struct found find_by_device(const struct __sk_buff *skb)
{
	struct found none = {};
	__u32 ifindex = skb->ifindex;
	struct device *device = bpf_map_lookup_elem(&devices, &ifindex);

	return device ? find_by_id(device->binding) : none;
}

static __always_inline int pod(struct __sk_buff *skb, const struct found *found, enum reason *reason)
{
	struct tuple t = {};

	*reason = REASON_FENCED; /* a pod of nobody says nothing */
	if (!found->binding)
		return TC_ACT_SHOT;
	*reason = REASON_NOT_PARSED;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return TC_ACT_SHOT; /* a pod's neighbours are permanent entries: nothing but IP has business here */
	*reason = REASON_MALFORMED;
	pull_headers(skb);
	enum parsed parsed = parse_frame((void *)(long)skb->data, (void *)(long)skb->data_end, &t);

	if (parsed == PARSED_MALFORMED)
		return TC_ACT_SHOT;
	*reason = REASON_GUARDED;
	if (found->binding->egress == EGRESS_SHUT)
		return TC_ACT_SHOT;
	*reason = REASON_HELD;
	if (found->binding->egress == EGRESS_HOLD)
		return tc_park(skb, found, &t, reason);
	return tc_speak(skb, found, parsed, &t, reason);
}

SEC("tc")
int hp_pod(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;
	struct found found = find_by_device(skb);

	if (found.binding && fast_speaks(skb, found.binding)) {
		int fast = fast_send(skb, &found);

		if (fast != GENERAL_PATH)
			return fast;
	}
	enum reason reason = REASON_MALFORMED;
	int verdict = pod(skb, &found, &reason);

	count(HOOK_POD, reason, found.id, bytes);
	tc_report(skb, HOOK_POD, reason, verdict, found.id, bytes);
	return verdict;
}

static __always_inline int replay(struct __sk_buff *skb, const struct found *found, enum reason *reason)
{
	struct tuple t = {};

	*reason = REASON_FENCED;
	if (!found->binding)
		return TC_ACT_SHOT;
	struct park_state *state = bpf_map_lookup_elem(&park_states, &found->id);

	if (state)
		__sync_fetch_and_add(&state->replayed, 1);
	pull_headers(skb);
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	enum parsed parsed = parse_frame(data, end, &t);

	if (parsed == PARSED_MALFORMED || (parsed == PARSED && !is_whole(&t, skb->len))) {
		*reason = REASON_MALFORMED;
		return TC_ACT_SHOT;
	}
	int own = is_homeward(skb); /* said in a pod */

	if (parsed == PARSED && !own)
		localize(&t, &found->binding->home);
	struct found heard = own ? (struct found){} : find_hearer(data, end, &t);

	if (!heard.binding || heard.id != found->id) { /* what the process itself sent while it was held */
		*reason = REASON_GUARDED;
		if (found->binding->egress == EGRESS_SHUT || found->binding->egress == EGRESS_HOLD)
			return TC_ACT_SHOT;
		return tc_speak(skb, found, parsed, &t, reason);
	}
	struct decision d = act(*found, &t, 0, 0);

	switch (d.step) {
	case STEP_TUNNEL:
		*reason = REASON_TUNNELLED;
		return tc_tunnel(skb, &d, &t, t.loopback || is_local(&t.source), reason);
	case STEP_DELIVER:
		*reason = REASON_DELIVERED;
		return tc_hand_over(skb, &d, reason);
	case STEP_PASS:
		if (found->binding->action == ACTION_PARK)
			return TC_ACT_SHOT; /* nobody replays into a closed queue */
		*reason = REASON_REPLAYED_HOME;
		if (t.loopback || is_local(&t.source))
			return tc_loop_back(skb, reason);
		skb->mark = MARK_REPLAYED;
		return bpf_redirect(found->binding->uplink_ifindex, BPF_F_INGRESS);
	default:
		return TC_ACT_SHOT;
	}
}

SEC("tc")
int hp_replay(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;
	struct found found = find_by_device(skb);
	enum reason reason = REASON_MALFORMED;
	int verdict = replay(skb, &found, &reason);

	count(HOOK_REPLAY, reason, found.id, bytes);
	tc_report(skb, HOOK_REPLAY, reason, verdict, found.id, bytes);
	return verdict;
}

#endif
