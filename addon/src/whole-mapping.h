// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace homeproxy {

// Tracks writes to the mapping of a process that has this range, with this userfaultfd: as a whole or not at all. False when there
// is no such mapping (any more), or it cannot be tracked.
bool TrackWhole(int uffd, int pid, uint64_t start, uint64_t end);

}  // namespace homeproxy
