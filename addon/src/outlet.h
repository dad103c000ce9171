// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "failure.h"

namespace homeproxy {

/*
 * Hands buffers on to a descriptor whose writes block. A pipe takes their pages as they are (vmsplice): the reader copies from here,
 * and the kernel need not make pages for the pipe, charge them to a cgroup, fill them and free them. What it has not read yet must
 * not be written to: buffers follow each other around a ring with two more of them than the pipe has places for pages.
 */
class Outlet {
 public:
  // @param piece bytes of a buffer, whole pages
  Outlet(int fd, size_t piece);
  ~Outlet();
  Outlet(const Outlet&) = delete;
  Outlet& operator=(const Outlet&) = delete;

  // The buffer to fill next; valid until the next Put().
  uint8_t* Room() { return ring_ != nullptr ? ring_ + next_ : own_.data(); }
  // Hands on so many bytes of it.
  bool Put(size_t bytes, Trouble* trouble);

 private:
  const int fd_;
  const size_t piece_;
  uint8_t* ring_ = nullptr;  // without: it is no pipe
  size_t ring_bytes_ = 0, next_ = 0;
  std::vector<uint8_t> own_;
};

}  // namespace homeproxy
