// SPDX-License-Identifier: Apache-2.0
#include "grace-period.h"

#include <bpf/bpf.h>
#include <errno.h>

#include <utility>

#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

/*
 * Waits for an RCU grace period. Whoever changes an entry of a map of maps gets one: "all programs that could be running use the
 * new map value" (maybe_wait_bpf_programs, kernel/bpf/syscall.c, Linux 4.20 and later). Since Linux 5.0 one grace period is for
 * sections with preemption or softirqs off, too (Documentation/RCU): a packet's whole way through one softirq is over.
 * membarrier(2) does not do: with one processor online, or with nohz_full, it waits for nobody.
 */
class GracePeriod : public Napi::AsyncWorker {
 public:
  explicit GracePeriod(Napi::Env env) : AsyncWorker(env), promise_(env) {}
  Napi::Promise Promise() const { return promise_.Promise(); }

 protected:
  void Execute() override {
    const UniqueFd inner(bpf_map_create(BPF_MAP_TYPE_ARRAY, nullptr, 4, 4, 1, nullptr));
    if (inner.Get() < 0) return Failed(inner.Get(), "bpf_map_create");
    LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = static_cast<uint32_t>(inner.Get()));
    const UniqueFd outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr, 4, 4, 1, &options));
    if (outer.Get() < 0) return Failed(outer.Get(), "bpf_map_create");
    const uint32_t key = 0;
    const int value = inner.Get();
    const int error = bpf_map_update_elem(outer.Get(), &key, &value, BPF_ANY);
    if (error != 0) Failed(error, "bpf_map_update_elem");
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (error_ == 0) {
      promise_.Resolve(Env().Undefined());
      return;
    }
    try {
      Fail(Env(), error_, call_);
    } catch (const Napi::Error& error) {
      promise_.Reject(error.Value());
    }
  }

  void OnError(const Napi::Error& error) override { promise_.Reject(error.Value()); }

 private:
  void Failed(int error, const char* call) {
    error_ = -error;
    call_ = call;
  }

  Napi::Promise::Deferred promise_;
  int error_ = 0;
  const char* call_ = "";
};

// () -> a promise
Napi::Value ProgramsEnded(const Napi::CallbackInfo& info) {
  auto* period = new GracePeriod(info.Env());
  period->Queue();
  return period->Promise();
}

}  // namespace

void ExportGracePeriod(Napi::Env env, Napi::Object exports) {
  exports["programsEnded"] = Napi::Function::New(env, ProgramsEnded, "programsEnded");
}

}  // namespace homeproxy
