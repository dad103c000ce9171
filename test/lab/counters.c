/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counters <address> <port>: speaks as much of the Redis protocol as the verifying client needs, on a socket for both families when
 * the address is `::` (Redis itself opens one of each).
 */
#include "counting.h"
#include "listener.h"

int main(int argc, char **argv)
{
	if (argc != 3)
		return 1;
	serve(listener_at(argv[1], atoi(argv[2])));
}
