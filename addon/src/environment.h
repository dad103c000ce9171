// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

namespace homeproxy {

// What one JavaScript environment (the main thread, or a worker) needs to know; each has its own.
struct Environment {
  Napi::FunctionReference error_class;
  Napi::FunctionReference descriptor_class;
  Napi::FunctionReference btf_class;

  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
};

}  // namespace homeproxy
