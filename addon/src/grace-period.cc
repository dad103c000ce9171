// SPDX-License-Identifier: Apache-2.0
#include "grace-period.h"

#include <bpf/bpf.h>

#include "descriptor.h"
#include "task.h"

namespace homeproxy {
namespace {

/*
 * Waits for an RCU grace period. Whoever changes an entry of a map of maps gets one: "all programs that could be running use the
 * new map value" (maybe_wait_bpf_programs, kernel/bpf/syscall.c, Linux 4.20 and later). Since Linux 5.0 one grace period is for
 * sections with preemption or softirqs off, too (Documentation/RCU): a packet's whole way through one softirq is over.
 * membarrier(2) does not do: with one processor online, or with nohz_full, it waits for nobody.
 */
void WaitForPrograms(Trouble* trouble) {
  const UniqueFd inner(bpf_map_create(BPF_MAP_TYPE_ARRAY, nullptr, 4, 4, 1, nullptr));
  if (inner.Get() < 0) {
    *trouble = {-inner.Get(), "bpf_map_create"};
    return;
  }
  LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = static_cast<uint32_t>(inner.Get()));
  const UniqueFd outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr, 4, 4, 1, &options));
  if (outer.Get() < 0) {
    *trouble = {-outer.Get(), "bpf_map_create"};
    return;
  }
  const uint32_t key = 0;
  const int value = inner.Get();
  const int error = bpf_map_update_elem(outer.Get(), &key, &value, BPF_ANY);
  if (error != 0) *trouble = {-error, "bpf_map_update_elem"};
}

// () -> a promise
Napi::Value ProgramsEnded(const Napi::CallbackInfo& info) {
  return Task::Start(info.Env(), WaitForPrograms, [](Napi::Env env) { return env.Undefined(); });
}

}  // namespace

void ExportGracePeriod(Napi::Env env, Napi::Object exports) {
  exports["programsEnded"] = Napi::Function::New(env, ProgramsEnded, "programsEnded");
}

}  // namespace homeproxy
