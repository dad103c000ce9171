// SPDX-License-Identifier: Apache-2.0
#include "line.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "failure.h"
#include "secure-stream.h"
#include "task.h"

namespace homeproxy {
namespace {

constexpr size_t kPage = 4096, kPiece = 256 << 10;  // a piece and its copy stay in a processor's cache
constexpr size_t kSmall = 64 << 10, kMaxPieces = 256;
constexpr uint32_t kPages = 2, kZero = 3;  // criu-restore.c
constexpr int kDrainMs = 2000;

struct Record {
  uint32_t kind, zero;
  uint64_t start, bytes;
};

bool IsZero(const uint8_t* page) {
  uint64_t first;
  memcpy(&first, page, sizeof first);
  return first == 0 && memcmp(page, page + sizeof first, kPage - sizeof first) == 0;
}

// Records of memory on their way; small ones go together.
class Sender {
 public:
  Sender(SecureStream* stream, Trouble* trouble) : stream_(stream), trouble_(trouble) { staged_.reserve(kPiece); }

  // Records for pages that have been read. @param fresh nothing was ever sent of them: zero pages need no word
  bool Send(uint64_t start, const uint8_t* content, size_t bytes, bool fresh) {
    for (size_t at = 0; at < bytes;) {
      const bool zero = IsZero(content + at);
      size_t end = at + kPage;
      while (end < bytes && IsZero(content + end) == zero) end += kPage;
      if (!zero || !fresh) {
        const Record record = {htobe32(zero ? kZero : kPages), 0, htobe64(start + at), htobe64(end - at)};
        if (!Put(&record, sizeof record)) return false;
        if (!zero && !Put(content + at, end - at)) return false;
      }
      at = end;
    }
    return true;
  }

  bool Flush() {
    if (staged_.empty()) return true;
    const bool good = stream_->Write(staged_.data(), staged_.size(), trouble_);
    staged_.clear();
    return good;
  }

 private:
  bool Put(const void* data, size_t bytes) {
    const auto* from = static_cast<const uint8_t*>(data);
    if (bytes > kSmall) return Flush() && stream_->Write(from, bytes, trouble_);
    if (staged_.size() + bytes > kPiece && !Flush()) return false;
    staged_.insert(staged_.end(), from, from + bytes);
    return true;
  }

  SecureStream* const stream_;
  Trouble* const trouble_;
  std::vector<uint8_t> staged_;
};

// Reads ranges of a process's memory, many small ones at once, and sends them. `missed`: what is not there any more.
bool SendPages(SecureStream* stream, int pid, const std::vector<uint64_t>& ranges, bool fresh, uint64_t* sent,
               std::vector<uint64_t>* missed, Trouble* trouble) {
  std::vector<uint8_t> buffer(kPiece);
  Sender sender(stream, trouble);
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
        if (!sender.Send(start, &buffer[at], whole, fresh)) return false;
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

bool WriteAll(int fd, const uint8_t* data, size_t size, Trouble* trouble) {
  for (size_t at = 0; at < size;) {
    const ssize_t written = write(fd, data + at, size - at);
    if (written > 0) {
      at += written;
    } else if (errno != EINTR) {
      *trouble = {errno, "write"};
      return false;
    }
  }
  return true;
}

// Copies what comes into a descriptor whose writes block, until it ends or `limit` bytes have come.
bool Relay(SecureStream* stream, int fd, uint64_t limit, uint64_t* taken, Trouble* trouble) {
  std::vector<uint8_t> buffer(kPiece);
  while (!stream->ended() && *taken < limit) {
    size_t filled = 0;
    while (filled < buffer.size()) {
      const ssize_t got = stream->Read(&buffer[filled], buffer.size() - filled, filled == 0, trouble);
      if (got < 0) return false;
      if (got == 0) break;
      filled += got;
    }
    if (!WriteAll(fd, buffer.data(), filled, trouble)) return false;
    *taken += filled;
  }
  return true;
}

// A private line to another node: memory goes over it without a turn through JavaScript. One call at a time.
class Line : public Napi::ObjectWrap<Line> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Line",
                       {InstanceMethod<&Line::Handshake>("handshake"), InstanceMethod<&Line::Write>("write"),
                        InstanceMethod<&Line::Pages>("pages"), InstanceMethod<&Line::Finish>("finish"),
                        InstanceMethod<&Line::ReadAll>("readAll"), InstanceMethod<&Line::Relay>("relay"),
                        InstanceMethod<&Line::Answer>("answer"), InstanceMethod<&Line::SetPace>("setPace"),
                        InstanceMethod<&Line::Cut>("cut")});
  }

  // (fd, secret, server, longest silence in ms)
  explicit Line(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Line>(info) {
    const Bytes secret = BytesOf(info[1]);
    const auto* first = static_cast<const uint8_t*>(secret.data);
    if (secret.size != SecureStream::kSecretBytes) Fail(info.Env(), EINVAL, "SSL_new");
    stream_ = std::make_shared<SecureStream>(IntOf(info[0]), std::vector<uint8_t>(first, first + secret.size),
                                             info[2].As<Napi::Boolean>().Value());
    stream_->SetPatience(IntOf(info[3]));
  }

 private:
  using Act = std::function<void(SecureStream*, Trouble*)>;

  Napi::Value Run(Napi::Env env, Act act, Result result) {
    if (stream_ == nullptr) Fail(env, ECONNABORTED, "SSL_write");
    if (busy_->exchange(true)) Fail(env, EBUSY, "SSL_write");
    // says so when the work is over, or was never begun
    const std::shared_ptr<void> over(nullptr, [busy = busy_](void*) { busy->store(false); });
    return LongTask::Start(
        env, [stream = stream_, act = std::move(act), over](Trouble* trouble) { act(stream.get(), trouble); },
        std::move(result));
  }

  static Napi::Value Nothing(Napi::Env env) { return env.Undefined(); }

  Napi::Value Handshake(const Napi::CallbackInfo& info) {
    return Run(info.Env(), [](SecureStream* stream, Trouble* trouble) { stream->Handshake(trouble); }, Nothing);
  }

  static std::vector<uint8_t> CopyOf(const Napi::Value& value) {
    const Bytes bytes = BytesOf(value);
    const auto* first = static_cast<const uint8_t*>(bytes.data);
    return {first, first + bytes.size};
  }

  // (bytes)
  Napi::Value Write(const Napi::CallbackInfo& info) {
    return Run(
        info.Env(),
        [data = CopyOf(info[0])](SecureStream* stream, Trouble* trouble) {
          for (size_t at = 0; at < data.size() && trouble->error == 0; at += kPiece)
            stream->Write(&data[at], std::min(kPiece, data.size() - at), trouble);
        },
        Nothing);
  }

  // (pid, ranges, fresh) -> [bytes that were sent, ranges that were not there any more]
  Napi::Value Pages(const Napi::CallbackInfo& info) {
    const int pid = IntOf(info[0]);
    const auto array = info[1].As<Napi::BigUint64Array>();
    const std::vector<uint64_t> ranges(array.Data(), array.Data() + array.ElementLength());
    const bool fresh = info[2].As<Napi::Boolean>().Value();
    auto sent = std::make_shared<uint64_t>(0);
    auto missed = std::make_shared<std::vector<uint64_t>>();
    return Run(
        info.Env(),
        [=](SecureStream* stream, Trouble* trouble) {
          stream->Hold(true);
          SendPages(stream, pid, ranges, fresh, sent.get(), missed.get(), trouble);
          stream->Hold(false);
        },
        [=](Napi::Env env) {
          auto both = Napi::Array::New(env, 2);
          auto rest = Napi::BigUint64Array::New(env, missed->size());
          if (!missed->empty()) memcpy(rest.Data(), missed->data(), missed->size() * sizeof(uint64_t));
          both.Set(0u, Napi::Number::New(env, static_cast<double>(*sent)));
          both.Set(1u, rest);
          return both;
        });
  }

  Napi::Value Finish(const Napi::CallbackInfo& info) {
    return Run(info.Env(), [](SecureStream* stream, Trouble* trouble) { stream->Finish(trouble); }, Nothing);
  }

  // (limit) -> all that comes until the end; EMSGSIZE when it is more
  Napi::Value ReadAll(const Napi::CallbackInfo& info) {
    const size_t limit = UnsignedOf(info[0]);
    auto data = std::make_shared<std::vector<uint8_t>>();
    return Run(
        info.Env(),
        [=](SecureStream* stream, Trouble* trouble) {
          std::vector<uint8_t> piece(kSmall);
          while (trouble->error == 0 && !stream->ended()) {
            const ssize_t got = stream->Read(piece.data(), piece.size(), true, trouble);
            if (got > 0) data->insert(data->end(), piece.begin(), piece.begin() + got);
            if (data->size() > limit) *trouble = {EMSGSIZE, "SSL_read"};
          }
        },
        [data](Napi::Env env) { return Napi::Buffer<uint8_t>::Copy(env, data->data(), data->size()); });
  }

  // (fd, limit) -> [bytes that were taken, whether that was the end]
  Napi::Value Relay(const Napi::CallbackInfo& info) {
    const int fd = IntOf(info[0]);
    const double limit = info[1].As<Napi::Number>().DoubleValue();
    const uint64_t most = limit >= 9e18 ? UINT64_MAX : static_cast<uint64_t>(limit);
    auto taken = std::make_shared<uint64_t>(0);
    return Run(
        info.Env(),
        [=](SecureStream* stream, Trouble* trouble) { homeproxy::Relay(stream, fd, most, taken.get(), trouble); },
        [taken, stream = stream_](Napi::Env env) {
          auto both = Napi::Array::New(env, 2);
          both.Set(0u, Napi::Number::New(env, static_cast<double>(*taken)));
          both.Set(1u, Napi::Boolean::New(env, stream->ended()));
          return both;
        });
  }

  // (bytes): the last that is said; what the other end still sends is thrown away
  Napi::Value Answer(const Napi::CallbackInfo& info) {
    return Run(
        info.Env(),
        [data = CopyOf(info[0])](SecureStream* stream, Trouble* trouble) {
          // `Write` would take what the other end still sends for an answer
          if (stream->Say(data.data(), data.size(), trouble) && stream->Finish(trouble)) stream->Drain(kDrainMs);
        },
        Nothing);
  }

  // (bytes per second); 0: no limit
  void SetPace(const Napi::CallbackInfo& info) {
    if (stream_ != nullptr) stream_->SetPace(info[0].As<Napi::Number>().DoubleValue());
  }

  // What it holds is let go of with the call that goes on, and not when the garbage is collected.
  void Cut(const Napi::CallbackInfo&) {
    if (stream_ != nullptr) stream_->Cut();
    stream_.reset();
  }

  std::shared_ptr<SecureStream> stream_;
  std::shared_ptr<std::atomic<bool>> busy_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

void ExportLine(Napi::Env env, Napi::Object exports) { exports["Line"] = Line::Define(env); }

}  // namespace homeproxy
