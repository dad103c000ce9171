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
 * not be written to: a buffer is given out again when as many pages have followed it as the pipe has places.
 */
class Outlet {
 public:
  // @param piece bytes of a buffer, whole pages
  Outlet(int fd, size_t piece);
  ~Outlet();
  Outlet(const Outlet&) = delete;
  Outlet& operator=(const Outlet&) = delete;

  // The buffer to fill next; valid until the next Put().
  uint8_t* Room();
  // Hands on so many bytes of it.
  bool Put(size_t bytes, Trouble* trouble);

 private:
  bool Write(const uint8_t* data, size_t bytes, Trouble* trouble) const;
  bool Lend(const uint8_t* data, size_t bytes, Trouble* trouble) const;
  bool IsFree(size_t buffer) const { return lent_ - end_[buffer] >= places_; }

  const int fd_;
  const size_t piece_;
  uint64_t places_ = 0;         // of the pipe; 0: it is none
  uint64_t lent_ = 0;           // pages, so far
  std::vector<uint64_t> end_;   // of each buffer in the ring: `lent_` after it was
  uint8_t* ring_ = nullptr;
  size_t next_ = 0;
  std::vector<uint8_t> own_;    // is written: the pipe has what it needs of it at once
};

}  // namespace homeproxy
