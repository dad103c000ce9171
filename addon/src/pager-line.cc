// SPDX-License-Identifier: Apache-2.0
#include "pager-line.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

#include "memory-record.h"

namespace homeproxy {

namespace {
constexpr size_t kPiece = 256 << 10;
constexpr std::chrono::milliseconds kLife(1000);
constexpr uint64_t kTogether = 16;  // pages: what is beside a page is wanted soon
}  // namespace

short PagerLine::events() const { return static_cast<short>(said_ < out_.size() ? POLLIN | POLLOUT : POLLIN); }

void PagerLine::Say(uint32_t kind, uint64_t start, uint64_t bytes) {
  if (fd_ < 0) return;
  const MemoryRecord record = {htobe32(kind), 0, htobe64(start), htobe64(bytes)};
  const auto* first = reinterpret_cast<const uint8_t*>(&record);
  out_.insert(out_.end(), first, first + sizeof record);
  spoke_ = std::chrono::steady_clock::now();
}

void PagerLine::Live() {
  if (std::chrono::steady_clock::now() - spoke_ < kLife) return;
  Say(kRecordLife, 0, 0);
  Flush();
}

void PagerLine::Want(const PagerMemory& memory, uint64_t page) {
  if (fd_ < 0 || asked_.count(page) != 0) return;
  const uint64_t count = memory.MissingFrom(page, kTogether);
  if (count == 0) return;
  for (uint64_t each = page; each < page + count; each++) asked_.insert(each);
  Say(kRecordNow, memory.AddressOf(page), count * kPage);
  Flush();
}

bool PagerLine::Flush() {
  while (said_ < out_.size()) {
    const ssize_t sent = send(fd_, &out_[said_], out_.size() - said_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    said_ += sent;
  }
  out_.clear();
  said_ = 0;
  return true;
}

bool PagerLine::Go(PagerMemory* memory, std::vector<uint64_t>* wanted) {
  const size_t before = in_.size();
  in_.resize(before + kPiece);
  const ssize_t got = recv(fd_, &in_[before], kPiece, MSG_DONTWAIT);
  const int failed = errno;
  in_.resize(before + std::max<ssize_t>(got, 0));
  if (got == 0 || (got < 0 && failed != EAGAIN && failed != EINTR)) return false;
  return Take(memory, wanted) && Flush();
}

bool PagerLine::Take(PagerMemory* memory, std::vector<uint64_t>* wanted) {
  size_t at = 0;
  for (;;) {
    if (left_ > 0) {
      const uint64_t whole = kind_ == kRecordZero ? left_ : std::min<uint64_t>(left_, (in_.size() - at) / kPage);
      if (whole == 0) break;
      memory->Deliver(number_, whole, kind_ == kRecordZero ? nullptr : &in_[at], wanted);
      if (kind_ != kRecordZero) at += whole * kPage;
      number_ += whole;
      left_ -= whole;
      continue;
    }
    MemoryRecord record;
    if (in_.size() - at < sizeof record) break;
    memcpy(&record, &in_[at], sizeof record);
    at += sizeof record;
    const uint64_t start = be64toh(record.start), bytes = be64toh(record.bytes);
    kind_ = be32toh(record.kind);
    if (kind_ == kRecordLife) continue;
    number_ = memory->NumberOf(start);
    left_ = bytes / kPage;
    if ((kind_ != kRecordPages && kind_ != kRecordZero) || start % kPage != 0 || bytes % kPage != 0 || bytes == 0) return false;
    // pages of one mapping follow each other in their numbers too
    if (left_ > memory->pages() - number_ || memory->NumberOf(start + bytes - kPage) != number_ + left_ - 1) return false;
    if (memory->AddressOf(number_ + left_ - 1) - start != bytes - kPage) return false;
  }
  in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(at));
  return true;
}

void PagerLine::Finish(int limit_ms) {
  Say(kRecordDone, 0, 0);
  std::vector<uint8_t> rest(kPiece);
  for (pollfd ready = {fd_, 0, 0};;) {
    ready.events = events();
    if (!Flush() || poll(&ready, 1, limit_ms) <= 0) return;
    if ((ready.revents & ~POLLOUT) != 0 && recv(fd_, rest.data(), rest.size(), MSG_DONTWAIT) <= 0) return;
  }
}

}  // namespace homeproxy
