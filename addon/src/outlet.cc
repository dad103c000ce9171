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

Outlet::Outlet(int fd, size_t piece) : fd_(fd), piece_(piece), own_(piece) {
  const int bytes = fcntl(fd, F_GETPIPE_SZ);
  if (bytes <= 0) return;
  const size_t places = bytes / kPage, buffers = places * kPage / piece + 2;
  void* made = mmap(nullptr, buffers * piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return;
  madvise(made, buffers * piece, MADV_DONTFORK);  // else the first write after a fork copies each page
  ring_ = static_cast<uint8_t*>(made);
  places_ = places;
  lent_ = places;  // so that all are free
  end_.resize(buffers);
}

// What the pipe still has of it stays the pipe's.
Outlet::~Outlet() {
  if (ring_ != nullptr) munmap(ring_, end_.size() * piece_);
}

uint8_t* Outlet::Room() { return ring_ != nullptr && IsFree(next_) ? ring_ + next_ * piece_ : own_.data(); }

bool Outlet::Put(size_t bytes, Trouble* trouble) {
  uint8_t* const data = Room();
  if (data == own_.data() || bytes < kWorthLending) return Write(data, bytes, trouble);
  if (!Lend(data, bytes, trouble)) return false;
  lent_ += (bytes + kPage - 1) / kPage;
  end_[next_] = lent_;
  next_ = (next_ + 1) % end_.size();
  return true;
}

bool Outlet::Write(const uint8_t* data, size_t bytes, Trouble* trouble) const {
  for (size_t at = 0; at < bytes;) {
    const ssize_t written = write(fd_, data + at, bytes - at);
    if (written > 0) {
      at += written;
    } else if (errno != EINTR) {
      *trouble = {errno, "write"};
      return false;
    }
  }
  return true;
}

bool Outlet::Lend(const uint8_t* data, size_t bytes, Trouble* trouble) const {
  for (size_t at = 0; at < bytes;) {
    iovec rest = {const_cast<uint8_t*>(data) + at, bytes - at};
    const ssize_t lent = vmsplice(fd_, &rest, 1, 0);
    if (lent > 0) {
      at += lent;
    } else if (errno != EINTR) {
      *trouble = {errno, "write"};
      return false;
    }
  }
  return true;
}

}  // namespace homeproxy
