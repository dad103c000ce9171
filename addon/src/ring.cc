// SPDX-License-Identifier: Apache-2.0
#include "ring.h"

#include <bpf/libbpf.h>
#include <errno.h>

#include <memory>

#include "arguments.h"
#include "failure.h"
#include "watch.h"

namespace homeproxy {
namespace {

// Samples per turn of the loop, so that a flood of them starves nothing else; the rest follows in the next turn.
constexpr int kSamplesPerTurn = 256;

// new RingBuffer(map fd, callback): every sample is copied into a Buffer and handed to the callback. The ring maps the
// map's memory, and so keeps it when the descriptor is closed.
class RingBuffer : public Napi::ObjectWrap<RingBuffer> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "RingBuffer",
                       {InstanceMethod<&RingBuffer::Close>("close"), InstanceMethod<&RingBuffer::Reference>("ref"),
                        InstanceMethod<&RingBuffer::Unreference>("unref")});
  }

  explicit RingBuffer(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<RingBuffer>(info), callback_(Napi::Persistent(info[1].As<Napi::Function>())) {
    LogCapture log;
    ring_.reset(ring_buffer__new(IntOf(info[0]), OnSample, this, nullptr));
    if (ring_ == nullptr) Fail(info.Env(), errno, "ring_buffer__new", {}, &log);
    watch_ = std::make_unique<Watch>(info.Env(), ring_buffer__epoll_fd(ring_.get()), [this](int) { Consume(); });
    // Not to be collected while it watches.
    Ref();
  }

 private:
  struct Free {
    void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
  };

  static int OnSample(void* context, void* data, size_t size) {
    auto* self = static_cast<RingBuffer*>(context);
    const Napi::Env env = self->callback_.Env();
    Napi::HandleScope scope(env);
    // Not Napi::Buffer, which throws: an exception must not cross libbpf.
    napi_value sample;
    if (napi_create_buffer_copy(env, size, data, nullptr, &sample) != napi_ok) return -ENOMEM;
    CallFromLoop(self->callback_, {sample});
    if (self->watch_ == nullptr) return -ECANCELED;
    return ++self->samples_ < kSamplesPerTurn ? 0 : -EAGAIN;
  }

  void Consume() {
    Napi::HandleScope scope(callback_.Env());
    samples_ = 0;
    consuming_ = true;
    ring_buffer__consume(ring_.get());
    consuming_ = false;
    // The callback closed us: only now is nobody inside the ring.
    if (watch_ == nullptr) Release();
  }

  void Close(const Napi::CallbackInfo&) {
    if (watch_ == nullptr) return;
    watch_.reset();
    if (!consuming_) Release();
  }

  void Release() {
    ring_.reset();
    Unref();
  }

  void Reference(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->SetReferenced(true);
  }

  void Unreference(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->SetReferenced(false);
  }

  // Destroyed from the last to the first: the watch looks at the ring.
  Napi::FunctionReference callback_;
  std::unique_ptr<ring_buffer, Free> ring_;
  std::unique_ptr<Watch> watch_;
  bool consuming_ = false;
  int samples_ = 0;
};

}  // namespace

void ExportRing(Napi::Env env, Napi::Object exports) { exports["RingBuffer"] = RingBuffer::Define(env); }

}  // namespace homeproxy
