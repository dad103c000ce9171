/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments. Only the first one has ports: it is remembered, and those that follow go where it went. A later fragment that
 * comes before its first one is passed untouched and counted (Linux sends them in order, and one flow keeps to one path).
 */
#ifndef HOMEPROXY_FRAGMENTS_H
#define HOMEPROXY_FRAGMENTS_H

#include "lookup.h"

#define FRAGMENT_LIFE_NS 30000000000ULL /* Linux gives a datagram as long to become whole (net.ipv4.ipfrag_time) */

/* Who a packet is about: the local end that it is for, or the one that it comes from. */
enum side {
	SIDE_HEARD = 0,
	SIDE_SAID = 1,
};

/* What names a datagram (RFC 791, 2.3; RFC 8200, 4.5: there without the protocol, which only the first fragment tells). */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u8 protocol;
	__u8 side; /* enum side */
	__u8 pad[2];
};

struct fragment_entry {
	__u64 seen; /* nanoseconds since the machine started */
	__u32 binding;
	__u32 pad;
};

/* Only datagrams of bound processes get an entry, and new ones push the oldest out: a flood cannot fill it for good. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct fragment_key);
	__type(value, struct fragment_entry);
} fragments SEC(".maps");

static __always_inline struct fragment_key fragment_key(const struct tuple *t, enum side side)
{
	return (struct fragment_key){
		.source = t->source,
		.destination = t->destination,
		.id = t->fragment_id,
		.protocol = t->family == FAMILY_IPV6 ? 0 : t->protocol,
		.side = side,
	};
}

/* After a first fragment's ports have found a binding. */
static __always_inline void remember_fragment(const struct tuple *t, enum side side, const struct found *found)
{
	struct fragment_key key = fragment_key(t, side);
	struct fragment_entry entry = { .seen = bpf_ktime_get_ns(), .binding = found->id };

	bpf_map_update_elem(&fragments, &key, &entry, BPF_ANY);
}

/* The binding of the first fragment; .binding NULL: none was seen in time, or it was not ours. */
static __always_inline struct found find_by_fragment(const struct tuple *t, enum side side)
{
	struct found none = {};
	struct fragment_key key = fragment_key(t, side);
	struct fragment_entry *entry = bpf_map_lookup_elem(&fragments, &key);

	if (!entry || bpf_ktime_get_ns() - entry->seen > FRAGMENT_LIFE_NS)
		return none;
	return find_by_id(entry->binding);
}

#endif
