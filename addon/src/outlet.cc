// SPDX-License-Identifier: Apache-2.0
#include "outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace homeproxy {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWorthLending = 64 << 10;  // less is copied: it would take a place for a part of a page

}  // namespace

Outlet::Outlet(int fd, size_t piece) : fd_(fd), piece_(piece) {
  const int room = fcntl(fd, F_GETPIPE_SZ);
  void* made = MAP_FAILED;
  if (room > 0) {
    ring_bytes_ = room + 2 * piece;
    made = mmap(nullptr, ring_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (made == MAP_FAILED) {
    own_.resize(piece);
    return;
  }
  madvise(made, ring_bytes_, MADV_DONTFORK);  // else the first write after a fork copies each page
  ring_ = static_cast<uint8_t*>(made);
}

// What the pipe still has of it stays the pipe's.
Outlet::~Outlet() {
  if (ring_ != nullptr) munmap(ring_, ring_bytes_);
}

bool Outlet::Put(size_t bytes, Trouble* trouble) {
  const bool lend = ring_ != nullptr && bytes >= kWorthLending;
  uint8_t* const data = Room();
  for (size_t at = 0; at < bytes;) {
    iovec rest = {data + at, bytes - at};
    const ssize_t taken = lend ? vmsplice(fd_, &rest, 1, 0) : write(fd_, rest.iov_base, rest.iov_len);
    if (taken > 0) {
      at += taken;
    } else if (errno != EINTR) {
      *trouble = {errno, "write"};
      return false;
    }
  }
  if (!lend) return true;
  // Each page has a place in the pipe, so that those places that were taken before the last `room` bytes have been read.
  next_ += (bytes + kPage - 1) / kPage * kPage;
  if (next_ + piece_ > ring_bytes_) next_ = 0;
  return true;
}

}  // namespace homeproxy
