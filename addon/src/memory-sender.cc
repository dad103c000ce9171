// SPDX-License-Identifier: Apache-2.0
#include "memory-sender.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "descriptor.h"
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

/*
 * Pages of a process that was restored are shared with the CRIU that made it, by fork, until it writes to them. process_vm_readv pins
 * what it reads: of such pages the kernel gives the process copies then (gup_must_unshare, FAULT_FLAG_UNSHARE), which took twice as
 * long as all the rest, and doubled its memory for a while. /proc/PID/mem does not pin, but takes one range at a time: what was
 * written since is small pieces, and the process's own.
 */
class Reader {
 public:
  Reader(int pid, bool fresh) : pid_(pid) {
    if (fresh) mem_ = UniqueFd(open(("/proc/" + std::to_string(pid) + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  }

  // As process_vm_readv. -> bytes; -1: nothing, and errno
  ssize_t Read(uint8_t* into, size_t room, const iovec* remote, size_t count) const {
    if (mem_.Get() >= 0) return ReadEach(into, remote, count);
    const iovec local = {into, room};
    return process_vm_readv(pid_, &local, 1, remote, count, 0);
  }

 private:
  ssize_t ReadEach(uint8_t* into, const iovec* remote, size_t count) const {
    ssize_t all = 0;
    for (size_t i = 0; i < count; i++) {
      const ssize_t got = pread(mem_.Get(), into + all, remote[i].iov_len, reinterpret_cast<off_t>(remote[i].iov_base));
      if (got > 0) all += got;
      if (got == static_cast<ssize_t>(remote[i].iov_len)) continue;
      if (all > 0) return all;
      if (got == 0 || errno == EIO) errno = EFAULT;  // it has another address space by now, or nothing there
      return -1;
    }
    return all;
  }

  const int pid_;
  UniqueFd mem_;  // without: it is read in the other way
};

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
  const Reader reader(pid, rules.fresh);
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
      const ssize_t got = reader.Read(buffer.data(), wanted, &remote[done], remote.size() - done);
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
