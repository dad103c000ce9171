// SPDX-License-Identifier: Apache-2.0
#include "later-pages.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "descriptor.h"
#include "memory-record.h"
#include "memory-sender.h"

namespace homeproxy {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kPage = 4096, kPiece = 256 << 10, kAddressEnd = uint64_t{1} << 47, kMostPages = uint64_t{1} << 30;
constexpr size_t kRoom = 64 << 10;
constexpr std::chrono::milliseconds kLife(1000), kMadeUp(100);

// What is to be sent, and what has been: pages have numbers, in the order of the ranges.
class Load {
 public:
  // -> false: that is no range of pages, or none above those before, or there are more than any process has
  bool Add(uint64_t start, uint64_t bytes) {
    const uint64_t above = ranges_.empty() ? 0 : ranges_.back().start + ranges_.back().bytes;
    if (start % kPage != 0 || bytes % kPage != 0 || bytes == 0 || start < above) return false;
    if (start > kAddressEnd || bytes > kAddressEnd - start || sent_.size() + bytes / kPage > kMostPages) return false;
    ranges_.push_back({start, bytes, sent_.size()});
    sent_.resize(sent_.size() + bytes / kPage);
    return true;
  }

  uint64_t pages() const { return sent_.size(); }

  // The parts of a range that were not sent yet; from now on they were.
  void Take(uint64_t start, uint64_t bytes, std::vector<uint64_t>* parts) {
    auto range = std::upper_bound(ranges_.begin(), ranges_.end(), start,
                                  [](uint64_t wanted, const Range& each) { return wanted < each.start; });
    if (range == ranges_.begin()) return;
    range--;
    for (uint64_t at = start; at < start + bytes && at < range->start + range->bytes; at += kPage) Take(*range, at, parts);
  }

  // The next that nobody has asked for. -> false: that was all
  bool Next(std::vector<uint64_t>* parts) {
    for (uint64_t taken = 0; taken < kPiece && range_ < ranges_.size();) {
      const Range& range = ranges_[range_];
      if (inside_ == range.bytes) {
        range_++;
        inside_ = 0;
        continue;
      }
      if (Take(range, range.start + inside_, parts)) taken += kPage;
      inside_ += kPage;
    }
    return !parts->empty();
  }

 private:
  struct Range {
    uint64_t start, bytes;
    size_t first;
  };

  bool Take(const Range& range, uint64_t at, std::vector<uint64_t>* parts) {
    const size_t number = range.first + (at - range.start) / kPage;
    if (sent_[number]) return false;
    sent_[number] = true;
    if (!parts->empty() && parts->back() == at) {
      parts->back() += kPage;
    } else {
      parts->push_back(at);
      parts->push_back(at + kPage);
    }
    return true;
  }

  std::vector<Range> ranges_;
  std::vector<bool> sent_;
  size_t range_ = 0;
  uint64_t inside_ = 0;
};

struct Heard {
  bool end = false, done = false;
  Clock::time_point last = Clock::now();
  std::vector<std::pair<uint64_t, uint64_t>> now;
};

// Reads all that the other end has said.
bool Hear(SecureStream* stream, std::vector<uint8_t>* rest, Load* load, Heard* heard, Trouble* trouble) {
  const std::chrono::milliseconds silence(stream->patience());
  for (ssize_t got = 1; got > 0;) {
    const size_t before = rest->size();
    rest->resize(before + kRoom);
    got = stream->Read(&(*rest)[before], kRoom, false, trouble);
    rest->resize(before + std::max<ssize_t>(got, 0));
    if (got < 0) return false;
    if (got > 0) heard->last = Clock::now();
    size_t at = 0;
    if (!rest->empty() && !heard->done && rest->front() != 0) {  // no record: whoever serves there has the last word
      stream->Unread(rest->data(), rest->size());
      *trouble = {ECANCELED, "SSL_read"};
      return false;
    }
    for (MemoryRecord record; rest->size() - at >= sizeof record; at += sizeof record) {
      memcpy(&record, &(*rest)[at], sizeof record);
      const uint64_t start = be64toh(record.start), bytes = be64toh(record.bytes);
      const uint32_t kind = be32toh(record.kind);
      if (kind == kRecordLater && (heard->end || !load->Add(start, bytes))) *trouble = {EPROTO, "SSL_read"};
      if (kind == kRecordNow) heard->now.emplace_back(start, bytes);
      if (kind == kRecordEnd) heard->end = true;
      if (kind == kRecordDone) heard->done = true;
    }
    rest->erase(rest->begin(), rest->begin() + static_cast<ptrdiff_t>(at));
  }
  if (heard->done) return true;
  if (stream->ended()) *trouble = {ECONNRESET, "SSL_read"};
  if (Clock::now() - heard->last > silence) *trouble = {ETIMEDOUT, "SSL_read"};
  return trouble->error == 0;
}

bool SendAll(SecureStream* stream, int pid, const std::vector<uint64_t>& parts, uint64_t* sent, Trouble* trouble) {
  std::vector<uint64_t> missed;
  if (!SendPages(stream, pid, parts, {.insists = true}, sent, &missed, trouble)) return false;
  if (!missed.empty()) *trouble = {EFAULT, "process_vm_readv"};  // it stands still: what it had it has
  return missed.empty();
}

bool SayLife(SecureStream* stream, Trouble* trouble) {
  const MemoryRecord life = {htobe32(kRecordLife), 0, 0, 0};
  return stream->Say(&life, sizeof life, trouble);
}

bool WriteAll(int fd, const uint8_t* data, size_t size, Trouble* trouble) {
  for (size_t at = 0; at < size;) {
    const ssize_t written = send(fd, data + at, size - at, MSG_NOSIGNAL);
    if (written > 0) {
      at += written;
    } else if (errno != EINTR) {
      *trouble = {errno, "send"};
      return false;
    }
  }
  return true;
}

// The path of a socket is short: the folder's descriptor stands for a long one.
UniqueFd ConnectPager(const std::string& path, Trouble* trouble) {
  const UniqueFd folder(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const std::string name = "/proc/self/fd/" + std::to_string(folder.Get()) + "/pager.line";
  sockaddr_un address = {AF_UNIX, {}};
  strncpy(address.sun_path, name.c_str(), sizeof address.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.Get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) *trouble = {errno, "connect"};
  return fd;
}

}  // namespace

bool ServeLater(SecureStream* stream, int pid, double rate, int silence, LaterProgress* progress, Trouble* trouble) {
  using std::chrono::duration_cast, std::chrono::milliseconds, std::chrono::nanoseconds;
  std::vector<uint8_t> rest;
  Load load;
  Heard heard;
  bool more = true;
  uint64_t sent = 0;
  auto next = Clock::now(), spoke = next;  // when the next may be sent that nobody waits for
  stream->KeepShort(kPiece);
  stream->SetPatience(silence);
  for (milliseconds wait(0);;) {
    stream->Hears(static_cast<int>(wait.count()));
    if (!Hear(stream, &rest, &load, &heard, trouble)) return false;
    if (heard.done) return true;
    progress->missing = load.pages() * kPage;
    const auto now = Clock::now();
    std::vector<uint64_t> parts;
    const bool asked = heard.end && !heard.now.empty();
    if (asked) {
      for (const auto& [start, bytes] : heard.now) load.Take(start, bytes, &parts);
      heard.now.clear();
    } else if (heard.end && more && now >= next) {
      more = load.Next(&parts);
    }
    if (!parts.empty()) {
      const uint64_t before = sent;
      const bool good = SendAll(stream, pid, parts, &sent, trouble);
      progress->sent = sent;
      if (!good) return false;
      spoke = Clock::now();
      const auto took = nanoseconds(rate > 0 ? static_cast<int64_t>(static_cast<double>(sent - before) / rate * 1e9) : 0);
      next = std::max(next, now - kMadeUp) + took;
    } else if (now - spoke > kLife) {
      if (!SayLife(stream, trouble)) return false;
      spoke = now;
    }
    const auto early = duration_cast<milliseconds>(next - Clock::now());
    wait = heard.end && more ? std::clamp(early, milliseconds(0), kLife) : std::min(kLife, milliseconds(silence));
  }
}

bool Exchange(SecureStream* stream, const std::string& folder, Trouble* trouble) {
  const UniqueFd pager = ConnectPager(folder, trouble);
  std::vector<uint8_t> piece(kPiece), said(kRoom);
  size_t left = 0;  // of what the pager has said, the beginning of a record
  const std::chrono::milliseconds patience(stream->patience());
  auto heard = Clock::now();
  while (trouble->error == 0) {
    for (ssize_t got = 1; got > 0;) {
      got = stream->Read(piece.data(), piece.size(), false, trouble);
      if (got < 0 || !WriteAll(pager.Get(), piece.data(), got, trouble)) return false;
      if (got > 0) heard = Clock::now();
    }
    if (stream->ended()) return true;
    if (Clock::now() - heard > patience) *trouble = {ETIMEDOUT, "SSL_read"};
    const ssize_t more = recv(pager.Get(), &said[left], said.size() - left, MSG_DONTWAIT);
    if (more == 0) return true;  // it has said all
    left += std::max<ssize_t>(more, 0);
    const size_t whole = left - left % sizeof(MemoryRecord);  // no half record before what the daemon says in the end
    if (whole > 0 && !stream->Say(said.data(), whole, trouble)) return false;
    left -= whole;
    memmove(said.data(), &said[whole], left);
    if (more < 0) stream->Hears(static_cast<int>(kLife.count()), pager.Get());
  }
  return false;
}

}  // namespace homeproxy
