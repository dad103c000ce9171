/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What routers between this node and its care-of addresses said about the size of our tunnel packets (RFC 1191, RFC 2003
 * section 4). Learnt here and not in the controller, so that it works while no daemon runs.
 *
 * Such a message is not authenticated. Somebody who is not on the path, but knows the addresses of two nodes, can forge one:
 * only for a care-of address that a binding uses now, never below the least MTU that IP guarantees, and for ten minutes. He
 * makes the packets of that path smaller, and cannot stop or divert them.
 */
#ifndef HOMEPROXY_PATH_MTU_H
#define HOMEPROXY_PATH_MTU_H

#include "icmp_error.h"

#define PATH_MTU_LIFE_NS (600 * 1000000000ULL) /* RFC 1191, 6.3: ten minutes, then try the larger size again */
#define LEAST_MTU_IPV4 576  /* what every host must take (RFC 791, 3.1) */
#define LEAST_MTU_IPV6 1280 /* what every link must carry (RFC 8200, 5) */
#define ANY_LENGTH 65535

struct path_mtu {
	__u64 learnt; /* nanoseconds since the machine started */
	__u32 mtu;    /* of a tunnel packet, in bytes */
	__u32 pad;
};

/* By care-of address. Only such as bindings use get an entry. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct path_mtu);
} path_mtus SEC(".maps");

/* The least of them, so that a packet that fits every path is spared the search. mtu 0: none was learnt. */
struct narrowest {
	__u64 until;
	__u32 mtu;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct narrowest);
} narrowest_path SEC(".maps");

/* Nobody may be told a smaller one. */
static __always_inline __u32 least_mtu(__u8 family, __u32 mtu)
{
	__u32 least = family == FAMILY_IPV6 ? LEAST_MTU_IPV6 : LEAST_MTU_IPV4;

	return mtu < least ? least : mtu;
}

/* Whether a tunnel packet of so many bytes may be too big for some path, which mtu_of_path then says. */
static __always_inline int may_exceed_path(__u32 length)
{
	__u32 zero = 0;
	struct narrowest *narrowest = length > LEAST_MTU_IPV4 ? bpf_map_lookup_elem(&narrowest_path, &zero) : NULL;

	return narrowest && narrowest->mtu && length > narrowest->mtu;
}

/* The MTU, in bytes of tunnel packet, that matters to one of `length` bytes: the next hop's, or the path's if that is less. */
static __always_inline __u32 mtu_of_path(const struct binding *binding, __u32 length)
{
	__u32 mtu = binding->next_hop.mtu;
	__u32 zero = 0;

	if (!may_exceed_path(length))
		return mtu;
	struct narrowest *narrowest = bpf_map_lookup_elem(&narrowest_path, &zero);

	if (!narrowest)
		return mtu;
	__u64 now = bpf_ktime_get_ns();

	if (now > narrowest->until) {
		narrowest->mtu = 0;
		return mtu;
	}
	struct path_mtu *path = bpf_map_lookup_elem(&path_mtus, &binding->care_of);

	return path && now - path->learnt <= PATH_MTU_LIFE_NS && path->mtu < mtu ? path->mtu : mtu;
}

/* Remembers the MTU of a path; a larger one than is known is no news while that is fresh. */
static __always_inline void learn_path_mtu(const struct address *care_of, __u32 mtu)
{
	struct path_mtu *known = bpf_map_lookup_elem(&path_mtus, care_of);
	struct path_mtu path = { .learnt = bpf_ktime_get_ns(), .mtu = mtu };
	__u32 zero = 0;
	struct narrowest *narrowest = bpf_map_lookup_elem(&narrowest_path, &zero);

	if (known && path.learnt - known->learnt <= PATH_MTU_LIFE_NS && known->mtu < mtu)
		return;
	bpf_map_update_elem(&path_mtus, care_of, &path, BPF_ANY);
	if (!narrowest)
		return;
	if (!narrowest->mtu || path.learnt > narrowest->until || mtu < narrowest->mtu)
		narrowest->mtu = mtu;
	narrowest->until = path.learnt + PATH_MTU_LIFE_NS;
}

struct bpf_map;

struct search {
	struct address care_of;
	__u32 found;
};

static long is_in_use(struct bpf_map *map, __u32 *id, struct binding *binding, struct search *search)
{
	if ((binding->action != ACTION_TUNNEL && binding->egress != EGRESS_TUNNEL) ||
	    !same_address(&binding->care_of, &search->care_of))
		return 0;
	search->found = 1;
	return 1; /* ends the search */
}

/* Whether a binding tunnels to an address now. */
static __always_inline int is_care_of(const struct address *address)
{
	struct search search = { .care_of = *address };

	bpf_for_each_map_elem(&bindings, is_in_use, &search, 0);
	return search.found;
}

/*
 * RFC 1191, 5 and 7.1: a router that is too old to name its MTU says 0. The next usual one below the packet's length.
 */
static __always_inline __u32 usual_mtu_below(__u32 length)
{
	if (length > 8166)
		return 8166;
	if (length > 4352)
		return 4352;
	if (length > 2002)
		return 2002;
	if (length > 1492)
		return 1492;
	if (length > 1006)
		return 1006;
	return LEAST_MTU_IPV4;
}

#endif
