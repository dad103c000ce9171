// SPDX-License-Identifier: Apache-2.0
#include "line.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "failure.h"
#include "later-pages.h"
#include "memory-sender.h"
#include "nice-value.h"
#include "outlet.h"
#include "secure-stream.h"
#include "task.h"

namespace homeproxy {
namespace {

constexpr size_t kPiece = 256 << 10;  // a piece and its copy stay in a processor's cache
constexpr size_t kSmall = 64 << 10;
constexpr int kDrainMs = 2000;

// Copies what comes into a descriptor whose writes block, until it ends or `limit` bytes have come.
bool Relay(SecureStream* stream, int fd, uint64_t limit, uint64_t* taken, Trouble* trouble) {
  Outlet outlet(fd, kPiece);
  while (!stream->ended() && *taken < limit) {
    uint8_t* const buffer = outlet.Room();
    size_t filled = 0;
    while (filled < kPiece) {
      const ssize_t got = stream->Read(buffer + filled, kPiece - filled, filled == 0, trouble);
      if (got < 0) return false;
      if (got == 0) break;
      filled += got;
    }
    if (!outlet.Put(filled, trouble)) return false;
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
                        InstanceMethod<&Line::ServeLater>("serveLater"), InstanceMethod<&Line::Later>("later"), InstanceMethod<&Line::Exchange>("exchange"),
                        InstanceMethod<&Line::Answer>("answer"), InstanceMethod<&Line::SetPace>("setPace"),
                        InstanceMethod<&Line::SetNice>("setNice"), InstanceMethod<&Line::Passed>("passed"),
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
        env,
        [stream = stream_, nice = nice_, act = std::move(act), over](Trouble* trouble) {
          const NiceValue::Worker worker(nice.get());
          act(stream.get(), trouble);
        },
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
          SendPages(stream, pid, ranges, {.fresh = fresh}, sent.get(), missed.get(), trouble);
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

  // (pid, bytes per second or 0, longest silence in ms) -> bytes that were sent until the other end had all
  Napi::Value ServeLater(const Napi::CallbackInfo& info) {
    const int pid = IntOf(info[0]);
    const double rate = info[1].As<Napi::Number>().DoubleValue();
    const int silence = IntOf(info[2]);
    return Run(
        info.Env(),
        [=, later = later_](SecureStream* stream, Trouble* trouble) {
          homeproxy::ServeLater(stream, pid, rate, silence, later.get(), trouble);
        },
        [later = later_](Napi::Env env) { return Napi::Number::New(env, static_cast<double>(later->sent)); });
  }

  // -> [bytes that the other end has said are missing, bytes that were sent of them]
  Napi::Value Later(const Napi::CallbackInfo& info) {
    auto both = Napi::Array::New(info.Env(), 2);
    both.Set(0u, Napi::Number::New(info.Env(), static_cast<double>(later_->missing)));
    both.Set(1u, Napi::Number::New(info.Env(), static_cast<double>(later_->sent)));
    return both;
  }

  // (folder): joins the other end and the pager there, until either is through
  Napi::Value Exchange(const Napi::CallbackInfo& info) {
    return Run(
        info.Env(),
        [folder = TextOf(info[0])](SecureStream* stream, Trouble* trouble) { homeproxy::Exchange(stream, folder, trouble); },
        Nothing);
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

  // (nice value or undefined: as they had it) of the threads that work for it
  void SetNice(const Napi::CallbackInfo& info) {
    nice_->Set(info[0].IsNumber() ? std::optional<int>(IntOf(info[0])) : std::nullopt);
  }

  // -> bytes that were written or read so far
  Napi::Value Passed(const Napi::CallbackInfo& info) {
    if (stream_ != nullptr) passed_ = stream_->passed();
    return Napi::Number::New(info.Env(), static_cast<double>(passed_));
  }

  // What it holds is let go of with the call that goes on, and not when the garbage is collected.
  void Cut(const Napi::CallbackInfo&) {
    if (stream_ != nullptr) stream_->Cut();
    stream_.reset();
  }

  std::shared_ptr<SecureStream> stream_;
  uint64_t passed_ = 0;  // when it was last asked
  std::shared_ptr<NiceValue> nice_ = std::make_shared<NiceValue>();
  std::shared_ptr<LaterProgress> later_ = std::make_shared<LaterProgress>();
  std::shared_ptr<std::atomic<bool>> busy_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

void ExportLine(Napi::Env env, Napi::Object exports) { exports["Line"] = Line::Define(env); }

}  // namespace homeproxy
