/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_COUNT_H
#define HOMEPROXY_COUNT_H

#include "constants.h"
#include "maps.h"

static __always_inline void add_to(struct counter *counter, __u64 bytes)
{
	counter->packets += 1; /* per CPU, and softirqs do not preempt each other */
	counter->bytes += bytes;
}

/* Every packet is counted here exactly once per program, at its end. `binding` 0: none. */
static __always_inline void count(__u32 hook, __u32 reason, __u32 binding, __u64 bytes)
{
	__u32 index = hook * COUNTERS_PER_HOOK + reason;
	struct counter *total = bpf_map_lookup_elem(&counters, &index);

	if (total)
		add_to(total, bytes);
	if (!binding)
		return;
	struct binding_counter_key key = { .binding = binding, .reason = reason };
	struct counter *own = bpf_map_lookup_elem(&binding_counters, &key);

	if (own) {
		add_to(own, bytes);
		return;
	}
	struct counter first = { .packets = 1, .bytes = bytes };

	bpf_map_update_elem(&binding_counters, &key, &first, BPF_NOEXIST);
}

#endif
