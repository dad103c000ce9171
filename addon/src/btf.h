// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bpf/btf.h>
#include <napi.h>

#include <memory>

namespace homeproxy {

// Type information, one type at a time: find(name, kind), type(id).
class Btf : public Napi::ObjectWrap<Btf> {
 public:
  static Napi::Function Define(Napi::Env env);

  // (path of an object or of raw BTF), or (Uint8Array of raw BTF)
  explicit Btf(const Napi::CallbackInfo& info);

 private:
  struct Free {
    void operator()(btf* types) const { btf__free(types); }
  };

  Napi::Value Find(const Napi::CallbackInfo& info);
  Napi::Value Type(const Napi::CallbackInfo& info);

  std::unique_ptr<btf, Free> types_;
};

// A copy, so that it outlives the object.
Napi::Value BtfFrom(Napi::Env env, const btf* types);

}  // namespace homeproxy
