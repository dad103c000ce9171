/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How hp_inside tells hp_pod that a packet is for the home node itself: a mark of the skb does not leave a namespace. */
#ifndef HOMEPROXY_HOMEWARD_H
#define HOMEPROXY_HOMEWARD_H

#include "loopback.h"

/* Locally administered, and on no wire. */
#define HOMEWARD_MAC { 0x02, 'h', 'o', 'm', 'e', 0x00 }

static __always_inline int names_home(const __u8 *destination)
{
	const __u8 homeward[ETH_ALEN] = HOMEWARD_MAC;
	int differs = 0;

	for (int i = 0; i < ETH_ALEN; i++)
		differs |= destination[i] ^ homeward[i];
	return !differs;
}

static __always_inline int is_homeward(const struct __sk_buff *skb)
{
	struct ethhdr eth;

	return !bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) && names_home(eth.h_dest);
}

#endif
