/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef HOMEPROXY_LOOKUP_H
#define HOMEPROXY_LOOKUP_H

#include "maps.h"
#include "parse.h"

struct found {
	struct binding *binding;
	__u32 id;
	__u8 tunnel_too_big; /* nobody: it is a router's word about a tunnel packet of ours, which did not fit its link */
	__u8 pad[3]; /* named, so that the compiler does not copy it from where nothing was written */
};

/* An id whose binding has been taken away is nobody's: nothing may be counted for it after its counters were removed. */
static __always_inline struct found find_by_id(__u32 id)
{
	struct binding *binding = bpf_map_lookup_elem(&bindings, &id);

	return (struct found){ .binding = binding, .id = binding ? id : 0 };
}

/* Whose block a port is in; -1: nobody's. */
static __always_inline __s64 owner_of_block(const struct address *local, __be16 port)
{
	struct block_key key = { .local = *local, .index = bpf_ntohs(port) / BLOCK_PORTS };
	struct block_entry *entry = bpf_map_lookup_elem(&port_blocks, &key);

	return entry ? (__s64)entry->binding : -1; /* without the cast the condition is unsigned, and nobody is 4294967295 */
}

/*
 * The id of the binding that a flow belongs to; -1: nobody's. `starts`: it begins with this packet. A global function
 * (Linux 5.6) is verified once, and not along each of the paths that lead to it: three quarters of the time that the
 * programs take to load.
 */
__noinline __s64 owner_of(const struct flow_key *flow, int starts)
{
	if (!flow)
		return -1;
	struct port_key port = { .local = flow->local, .port = flow->local_port, .protocol = flow->protocol };
	struct port_entry *entry = bpf_map_lookup_elem(&ports, &port);

	if (!entry)
		return owner_of_block(&flow->local, flow->local_port);
	if (!entry->shared && !entry->left_behind)
		return entry->binding;
	struct flow_entry *exact = bpf_map_lookup_elem(&flows, flow);

	if (exact && exact->binding)
		return exact->binding;
	return entry->shared || (exact && !starts) ? -1 : (__s64)entry->binding;
}

/* The binding of a local endpoint, seen from a remote one; .binding NULL: not ours. */
static __always_inline struct found find(__u8 protocol, const struct address *local, __be16 local_port,
					const struct address *remote, __be16 remote_port, int starts)
{
	struct found none = {};
	__u32 bit = bpf_ntohs(local_port);

	if (protocol == IPPROTO_UDP)
		bit += 65536;
	else if (protocol != IPPROTO_TCP)
		return none;
	__u32 word = bit / 64;
	__u64 *filter = bpf_map_lookup_elem(&port_filter, &word);

	if (!filter || !(*filter & (1ULL << (bit % 64))))
		return none;
	struct flow_key flow = {
		.local = *local,
		.remote = *remote,
		.local_port = local_port,
		.remote_port = remote_port,
		.protocol = protocol,
	};
	__s64 id = owner_of(&flow, starts);

	return id < 0 ? none : find_by_id(id);
}

static __always_inline struct found find_by_destination(const struct tuple *t)
{
	return find(t->protocol, &t->destination, t->destination_port, &t->source, t->source_port,
		    t->syn == SYN_START);
}

static __always_inline struct found find_by_source(const struct tuple *t)
{
	return find(t->protocol, &t->source, t->source_port, &t->destination, t->destination_port,
		    t->syn == SYN_START);
}

#endif
