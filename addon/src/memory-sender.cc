// SPDX-License-Identifier: Apache-2.0
#include "memory-sender.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include <algorithm>

#include "memory-record.h"

namespace homeproxy {
namespace {

constexpr size_t kPage = 4096, kPiece = 256 << 10;  // a piece and its copy stay in a processor's cache
constexpr size_t kSmall = 64 << 10, kMaxPieces = 256;

bool IsZero(const uint8_t* page) {
  uint64_t first;
  memcpy(&first, page, sizeof first);
  return first == 0 && memcmp(page, page + sizeof first, kPage - sizeof first) == 0;
}

// Records of memory on their way; small ones go together.
class Sender {
 public:
  Sender(SecureStream* stream, bool insists, Trouble* trouble)
      : stream_(stream), insists_(insists), trouble_(trouble) {
    staged_.reserve(kPiece);
  }

  // Records for pages that have been read. @param fresh nothing was ever sent of them: zero pages need no word
  bool Send(uint64_t start, const uint8_t* content, size_t bytes, bool fresh) {
    for (size_t at = 0; at < bytes;) {
      const bool zero = IsZero(content + at);
      size_t end = at + kPage;
      while (end < bytes && IsZero(content + end) == zero) end += kPage;
      if (!zero || !fresh) {
        const MemoryRecord record = {htobe32(zero ? kRecordZero : kRecordPages), 0, htobe64(start + at), htobe64(end - at)};
        if (!Put(&record, sizeof record)) return false;
        if (!zero && !Put(content + at, end - at)) return false;
      }
      at = end;
    }
    return true;
  }

  bool Flush() {
    if (staged_.empty()) return true;
    const bool good = Write(staged_.data(), staged_.size());
    staged_.clear();
    return good;
  }

 private:
  bool Write(const uint8_t* data, size_t bytes) {
    return insists_ ? stream_->Say(data, bytes, trouble_) : stream_->Write(data, bytes, trouble_);
  }

  bool Put(const void* data, size_t bytes) {
    const auto* from = static_cast<const uint8_t*>(data);
    if (bytes > kSmall) return Flush() && Write(from, bytes);
    if (staged_.size() + bytes > kPiece && !Flush()) return false;
    staged_.insert(staged_.end(), from, from + bytes);
    return true;
  }

  SecureStream* const stream_;
  const bool insists_;
  Trouble* const trouble_;
  std::vector<uint8_t> staged_;
};

}  // namespace

bool SendPages(SecureStream* stream, int pid, const std::vector<uint64_t>& ranges, SendingRules rules, uint64_t* sent,
               std::vector<uint64_t>* missed, Trouble* trouble) {
  std::vector<uint8_t> buffer(kPiece);
  Sender sender(stream, rules.insists, trouble);
  std::vector<iovec> remote;
  for (size_t next = 0, inside = 0; next + 1 < ranges.size();) {
    remote.clear();
    size_t wanted = 0;
    while (next + 1 < ranges.size() && wanted < kPiece && remote.size() < kMaxPieces) {
      const uint64_t start = ranges[next] + inside, left = ranges[next + 1] - start;
      const size_t bytes = std::min<uint64_t>(left, kPiece - wanted);
      remote.push_back({reinterpret_cast<void*>(start), bytes});
      wanted += bytes;
      inside = bytes == left ? 0 : inside + bytes;
      if (bytes == left) next += 2;
    }
    for (size_t done = 0; done < remote.size();) {
      const iovec local = {buffer.data(), wanted};
      const ssize_t got = process_vm_readv(pid, &local, 1, &remote[done], remote.size() - done, 0);
      if (got < 0 && errno != EFAULT) {
        *trouble = {errno, "process_vm_readv"};
        return false;
      }
      size_t left = std::max<ssize_t>(got, 0), at = 0;
      for (; done < remote.size(); done++) {
        const auto start = reinterpret_cast<uint64_t>(remote[done].iov_base);
        const size_t whole = std::min(left, remote[done].iov_len) / kPage * kPage;
        if (!sender.Send(start, &buffer[at], whole, rules.fresh)) return false;
        *sent += whole;
        left -= std::min(left, remote[done].iov_len);
        at += remote[done].iov_len;
        if (whole == remote[done].iov_len) continue;
        missed->push_back(start + whole);
        missed->push_back(start + remote[done].iov_len);
        wanted -= std::min(wanted, at);
        done++;
        break;
      }
    }
  }
  return sender.Flush();
}

}  // namespace homeproxy
