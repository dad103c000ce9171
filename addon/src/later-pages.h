// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include <atomic>
#include <string>

#include "failure.h"
#include "secure-stream.h"

namespace homeproxy {

// In bytes: what the other end has said is missing, and what was sent of it.
struct LaterProgress {
  std::atomic<uint64_t> missing{0}, sent{0};
};

// At the source: sends what the other end says is missing, and first what is waited for there, until it has all.
// @param rate bytes per second of what nobody waits for, at most; 0: no limit
// @param silence for so many milliseconds the other end may say nothing, or take nothing: a link that is lost ends no connection
bool ServeLater(SecureStream* stream, int pid, double rate, int silence, LaterProgress* progress, Trouble* trouble);

// At the destination: joins a line with the pager of a folder (pager.cc), until either is through.
bool Exchange(SecureStream* stream, const std::string& folder, Trouble* trouble);

}  // namespace homeproxy
