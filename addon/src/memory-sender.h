// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include <vector>

#include "failure.h"
#include "secure-stream.h"

namespace homeproxy {

struct SendingRules {
  bool fresh = false;    // nothing was ever sent of them: pages of zeros need no word
  bool insists = false;  // it goes on whatever the other end says meanwhile
};

// Reads ranges of a process's memory, many small ones at once, and sends them. `missed`: what is not there any more.
bool SendPages(SecureStream* stream, int pid, const std::vector<uint64_t>& ranges, SendingRules rules, uint64_t* sent,
               std::vector<uint64_t>* missed, Trouble* trouble);

}  // namespace homeproxy
