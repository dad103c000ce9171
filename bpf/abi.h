/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every structure and number that the programs and the controller share. The TypeScript side never repeats a layout:
 * it reads offsets and enumerators from the BTF of the compiled object (see cli/forwarding/abi.gen.ts and its test).
 *
 * ports ---------------> binding id ------> bindings -> what happens to the packet
 *   (proto, addr, port)       ^
 * port_blocks ---------------'
 *   (addr, 64 ports)          ^
 *   shared? -> flows ---------'
 *                (exact 5-tuple)
 */
#ifndef HOMEPROXY_ABI_H
#define HOMEPROXY_ABI_H

#include <linux/types.h>

/*
 * What is pinned outlives its programs. A build that changes structures takes the content of pinned maps over field by field,
 * by their names: new fields are 0. A change that this cannot express (another meaning of a field or a number, another map for
 * the same thing) needs a new LAYOUT_VERSION, and LAYOUT_OLDEST is the oldest one whose content means the same.
 */
enum layout_number {
	LAYOUT_VERSION = 2, /* tc programs may be attached by tcx, which builds that know only 1 could not replace */
	LAYOUT_FILTERS = 1, /* the same where they are filters: those builds may take over */
	LAYOUT_OLDEST = 1,
};

/* The only value of the map `layout`: what the maps pinned beside it are. */
struct layout {
	__u32 version;
};

/* An IPv6 address, or an IPv4 address in the mapped form ::ffff:a.b.c.d (RFC 4291, 2.5.5.2); network byte order. */
struct address {
	__u32 word[4];
};

/* What becomes of a packet that a correspondent sent to a bound process. */
enum action {
	ACTION_PASS = 0,    /* the process is here, an ordinary process of this node: the local stack takes it */
	ACTION_PARK = 1,    /* frozen: into the TAP of its twin, in order */
	ACTION_TUNNEL = 2,  /* away: encapsulate to binding.care_of */
	ACTION_DELIVER = 3, /* here, in a pod: into the pod's interface */
	ACTION_DROP = 4,    /* fenced: this copy must not hear anything */
};

/* What becomes of a packet that this node's copy of a bound process (or the kernel on its behalf) sends. */
enum egress {
	EGRESS_OPEN = 0, /* it may speak */
	EGRESS_HOLD = 1, /* restored but not committed: parked, sent at the commit */
	EGRESS_SHUT = 2, /* away or fenced: dropped, so that no RST, FIN or ICMP speaks for it */
	EGRESS_TUNNEL = 3, /* a pod's, whose network drops foreign sources: to its home, in a tunnel (RFC 3024) */
};

/*
 * What is around a packet in a tunnel: an IP header alone (protocol 4 or 41), or IP and UDP (GUE variant 1) for networks that
 * filter those protocols, and for receivers that spread flows over their queues by ports. Its family is that of care_of.
 */
enum encapsulation {
	ENCAPSULATION_IP = 0,
	ENCAPSULATION_UDP = 1,
};

/*
 * Where the next hop of a care-of address is, kept fresh by the controller. `resolved` 0 sends the packet through the
 * kernel's own neighbour table instead (bpf_redirect_neigh in tc), which is slower but never stale. `ifindex` 0: there is no
 * way at all.
 */
struct next_hop {
	__u32 ifindex;
	__u16 mtu; /* of that interface or route, in bytes of IP packet */
	__u8 resolved;
	__u8 pad;
	__u8 source[6];
	__u8 destination[6];
};

/*
 * What is parked whatever the action, so that queues that CRIU would lose run dry before a dump. In the end only segments of
 * connections that had begun still go on: those that the process has closed last need them to come to their end.
 */
enum hold {
	HOLD_NOTHING = 0,
	HOLD_NEW = 1,       /* SYNs */
	HOLD_DATAGRAMS = 2, /* SYNs, and all that is not TCP */
};

/*
 * One per bound process and node. Replaced whole, by one map update: all flows of a process flip at once.
 * The map is a hash without preallocation, so that a reader sees the old record or the new, never a mixture.
 */
struct binding {
	__u32 epoch;  /* grows with every migration; the controller refuses to write a smaller one */
	__u8 action;  /* enum action */
	__u8 egress;  /* enum egress */
	__u8 draining; /* 1: park behind what is still parked, act only when the queue is empty */
	__u8 hold;     /* enum hold */
	__u32 park_ifindex;   /* TAP that holds its parked packets; 0: none, parking drops and counts */
	__u32 uplink_ifindex; /* replays of ACTION_PASS re-enter the stack here; a pod's packets leave here */
	__u32 pod_ifindex;    /* host end of the pod's veth, for ACTION_DELIVER */
	__u8 pod_mac[6];      /* MAC of the pod's end */
	__u8 host_mac[6];     /* MAC of the host's end */
	struct address care_of; /* outer destination for ACTION_TUNNEL; of EGRESS_TUNNEL: the home node's address */
	struct address node;    /* this node's own address of the same family: outer source (RFC 5944, 4.2: the home agent's) */
	struct next_hop next_hop;
	__be16 tunnel_port;   /* outer UDP destination: the port on which the care-of host expects tunnels */
	__u8 encapsulation;   /* enum encapsulation */
	__u8 pad;
	struct address home; /* the home node's address, by which its 127.0.0.1 and ::1 go: see bpf/loopback.h */
};

/* What is changed in the first word of a home's address to name its loopback addresses. */
enum loopback_mark {
	LOOPBACK_MARK_IPV4 = 0x6c6f6f34,
	LOOPBACK_MARK_IPV6 = 0x6c6f6f36,
};

/* The local end of a port that belongs to a bound process. */
struct port_key {
	struct address local;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct port_entry {
	__u32 binding;
	__u32 shared; /* 0: every socket on the port belongs to the binding; 1: look the flow up in `flows` */
	__u32 left_behind; /* 1: flows in `flows` with binding 0 are still this node's, see below */
};

/*
 * A run of ports that a departed process takes the ports of new sockets from, of both protocols: what it opens while it is away
 * is found without an entry of its own. `ports` comes first.
 */
#define BLOCK_PORTS 64 /* one word of port_filter */

struct block_key {
	struct address local;
	__u32 index; /* port / BLOCK_PORTS */
};

struct block_entry {
	__u32 binding;
};

struct flow_key {
	struct address local;
	struct address remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 pad[3];
};

/*
 * Binding 0: the process had closed the connection before it departed, and the kernel of this node brings it to its end. When its
 * correspondent begins a new one from the same port, that is the process's, wherever it is.
 */
struct flow_entry {
	__u32 binding;
};

/*
 * The fast paths (bpf/fast.h, fast_tc.h): copies of what `ports`, `flows` and `bindings` say, in arrays, for the commonest case
 * only. An array's element is not replaced as a whole: the controller changes a single byte to invalidate one, writes the rest,
 * and changes a single byte to validate it. Whatever has no valid copy takes the way of all other packets.
 */
enum fast_number {
	FAST_BINDINGS = 16384, /* bindings with a greater id have no copies, neither of their own nor of their flows */
	FAST_WAYS = 4,         /* of a line of `fast_flows` */
	FAST_LINE_BITS = 19,   /* of its index */
	FAST_GUESTS = 4096,    /* bindings with a greater id have counters in `binding_counters` alone */
};

enum fast_kind {
	FAST_NONE = 0,   /* ask `ports` */
	FAST_OWN = 1,    /* every socket on that port of that address belongs to the binding */
	FAST_SHARED = 2, /* ask `fast_flows` */
};

/*
 * Index: protocol (0: TCP, 1: UDP) * 65536 + port. Read as one word of 64 bits. Where several local addresses have the port,
 * one of them has this entry.
 */
struct fast_port {
	__be32 local;
	__u16 binding;
	__u8 kind; /* enum fast_kind */
	__u8 pad;
};

/*
 * A copy of an entry of `flows`, in one of the ways of its line (fast_line_of() in fast.h): a search costs one miss of the cache,
 * where one in a hash costs three. There is none when all ways are taken, for IPv6, and of binding 0. The controller writes
 * it word by word: `owner` 0, then the rest, then `owner`. Read as two words of 64 bits. What is pinned is not looked through at
 * the start of a daemon: another choice of lines needs another map.
 */
struct fast_flow {
	__be32 remote;
	__be16 remote_port;
	__be16 local_port;
	__be32 local;
	__u32 owner; /* protocol * 65536 + binding; 0: nobody's */
};

struct fast_line {
	struct fast_flow ways[FAST_WAYS];
};

/* All that a tunnelled packet needs of its binding. */
struct fast_route {
	__u8 header[34]; /* Ethernet and outer IPv4 with TOS, length and checksum 0 */
	__u16 mtu;       /* of the next hop */
	__u32 sum;       /* of the outer header's 16-bit words, as they lie in memory */
	__u32 ifindex;
	__u32 pad;
};

/*
 * Index: binding id. Of the two routes `version` & 1 is valid. The controller keeps to odd versions, which processors foretell
 * (fast_route_of() in fast.h), and so writes into what was valid: whoever is still reading it finds another version at the end.
 * Between two of its writes lies a system call, longer than any read is put off.
 */
struct fast_binding {
	__u32 version; /* 0: ask `bindings`; else at most 255, and another one after every change */
	__u32 latest;  /* the version that was written last, for the controller */
	struct fast_route routes[2];
};

/* Order of parked packets: parked counts what went into the TAP, replayed what came back out of it. */
struct park_state {
	__u64 parked;
	__u64 replayed;
};

/*
 * How much of `replayed` has left this node's programs for good: hp_replay counts a frame before the kernel carries it on, and
 * another CPU that took the queue for empty then would let the next packet overtake it. The controller writes it when it
 * finds the queue empty: its writes into the TAP return after the frame went on.
 */
struct park_release {
	__u64 replayed;
};

/* A device that belongs to one binding, by ifindex. */
enum device_role {
	DEVICE_POD = 0,  /* host end of a pod's veth: what enters was sent by the process */
	DEVICE_PARK = 1, /* TAP of a twin: what enters is replayed */
};

struct device {
	__u32 binding;
	__u32 role; /* enum device_role */
};

/* A node from which tunnelled packets are accepted: key of `nodes` is its address. */
struct node_entry {
	__u32 id;
	struct address address; /* the one of the node's addresses by which its loopback goes */
};

/* Value of `local_addresses`, whose keys are all addresses of this node. */
struct local_entry {
	__u32 known;
};

/* Value of `outlets`, whose keys are the interfaces that take frames from XDP, by ifindex. */
struct outlet {
	__u32 known;
};

/* Which program counted. A packet that one program passes on is counted again by the next, under that one's hook. */
enum hook {
	HOOK_XDP = 0,
	HOOK_INGRESS = 1, /* tc ingress of an uplink */
	HOOK_EGRESS = 2,  /* tc egress of an uplink */
	HOOK_POD = 3,     /* tc ingress of the host end of a pod's veth */
	HOOK_REPLAY = 4,  /* tc ingress of a twin's TAP */
	HOOK_LOOPBACK = 5, /* tc egress of `lo`, at a home node of processes that are away */
	HOOK_INSIDE = 6,   /* tc egress of a pod's `lo` */
	HOOK_ENTRY = 7,    /* tc ingress of a pod's end of its link */
	HOOK_COUNT = 8,
};

/*
 * Why a packet went where it went: exactly one per packet and program. New ones are added at the end: their numbers are what
 * pinned counters are kept under, and survive an upgrade of the programs.
 */
enum reason {
	REASON_NOT_OURS = 0,         /* passed: no binding has this port */
	REASON_NOT_PARSED = 1,       /* passed: not a protocol that we forward */
	REASON_AT_HOME = 2,          /* passed: ACTION_PASS */
	REASON_PARKED = 3,
	REASON_PARK_NO_QUEUE = 4,    /* dropped: frozen, and there is no TAP */
	REASON_TUNNELLED = 5,
	REASON_DELIVERED = 6,
	REASON_SENT = 7,             /* a pod's packet, straight to the correspondent */
	REASON_FENCED = 8,           /* dropped: ACTION_DROP */
	REASON_GUARDED = 9,          /* dropped: this node may not speak for a departed process */
	REASON_HELD = 10,            /* a pod's packet before the commit, parked */
	REASON_TUNNEL_UNKNOWN_NODE = 11, /* passed untouched: outer source is not a registered node */
	REASON_TUNNEL_NO_BINDING = 12,   /* passed untouched: inner destination has no binding here */
	REASON_TOO_BIG = 13,         /* dropped and answered with ICMP "fragmentation needed" (RFC 1191) */
	REASON_TOO_BIG_UNANSWERED = 14, /* dropped: too big, and no answer could be sent */
	REASON_SLOW_PATH = 15,       /* XDP passed it to tc, which decides */
	REASON_MALFORMED = 16,       /* passed: truncated or inconsistent headers */
	REASON_NO_ROOM = 17,         /* dropped: the kernel refused to grow or shrink the packet */
	REASON_REPLAYED_HOME = 18,   /* replayed into the local stack */
	REASON_LOOPED = 19,          /* dropped: tunnelled from node to node until its outer TTL ran out */
	REASON_CONGESTED = 20,       /* dropped: met congestion in the tunnel and cannot carry the news (RFC 6040, 4.2) */
	REASON_TAGGED = 21,          /* passed: its VLAN tag says that it is of another network than the interface's own */
	REASON_FRAGMENT_UNKNOWN = 22, /* passed: a later fragment whose first one was not seen, or is not ours */
	REASON_SPLIT = 23,           /* tunnelled as several fragments: too big, and its sender allows it (IPv4 without DF) */
	REASON_PATH_MTU = 24,        /* passed: a router on the way to a care-of address says "too big"; remembered */
	REASON_TOO_BIG_RELAYED = 25, /* the same, and passed on to the correspondent whose packet it was */
	REASON_NO_ROUTE = 26,        /* dropped: there is no way to the care-of address, or its next hop does not answer */
	REASON_REVERSED = 27,        /* a pod's packet, in a tunnel to its home; there: taken out of it and sent to the correspondent */
	REASON_PARK_LOST = 28,       /* parked, but the queue was full or taken away: counted by the controller, packets only */
	REASON_INTERNAL = 29,        /* passed: both ends are in the pod; or CRIU tells a socket that it restores of a FIN */
	REASON_HOMEWARD = 30,        /* a pod's packet for somebody on its home node itself: on its way there */
	REASON_LOOPED_BACK = 31,     /* into this node's (or pod's) own stack, by way of its `lo` */
	REASON_COUNT = 32,
};

/* Index of `counters` is hook * COUNTERS_PER_HOOK + reason: room for reasons to come, so that the old ones keep their place. */
enum counters {
	COUNTERS_PER_HOOK = 64,
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* Index: binding id. What the fast paths of tc did for a process that is here, each field under the reason of its name. */
struct guest_counts {
	struct counter delivered;
	struct counter sent;
	struct counter at_home;
};

/* Per-binding counters, key of `binding_counters`. */
struct binding_counter_key {
	__u32 binding;
	__u32 reason; /* enum reason */
};

/* What a program did with a packet, whatever it is called at its hook. */
enum verdict {
	VERDICT_PASS = 0,     /* on its way through the kernel */
	VERDICT_DROP = 1,
	VERDICT_REDIRECT = 2, /* out of an interface: tunnel, pod, park queue */
	VERDICT_ANSWER = 3,   /* dropped, and its sender got an ICMP error */
};

/*
 * One packet as `homeproxy trace` shows it: what was dropped, and while somebody traces a sample of the rest. Of a tunnelled
 * packet the inner flow. Addresses are zero when the headers could not be read.
 */
struct event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 ifindex;    /* of the interface that it came by, or leaves by */
	__u32 binding;    /* 0: none */
	__u32 length;     /* of the frame, in bytes */
	__u32 suppressed; /* events of its kind that this CPU left out since the last one: see event_buckets */
	__u8 hook;        /* enum hook */
	__u8 reason;      /* enum reason */
	__u8 verdict;     /* enum verdict */
	__u8 protocol;    /* of IP */
};

/* What is traced beside drops. Written by the controller; programs that are loaded anew trace nothing. */
struct trace_settings {
	__u64 reasons; /* a bit for each enum reason */
	__u32 one_in;  /* 0: nobody traces; 1: every packet, n: one in n at random */
	__u32 binding; /* 0: any */
};

#endif
