// SPDX-License-Identifier: Apache-2.0
#include "descriptor.h"

#include <errno.h>
#include <fcntl.h>

#include "environment.h"
#include "failure.h"

namespace homeproxy {

Napi::Function Descriptor::Define(Napi::Env env) {
  return DefineClass(env, "Descriptor",
                     {InstanceAccessor<&Descriptor::Fd>("fd"), InstanceMethod<&Descriptor::Close>("close")});
}

Napi::Value Descriptor::New(Napi::Env env, int fd) {
  return Environment::Of(env).descriptor_class.New({Napi::Number::New(env, fd)});
}

Napi::Value Descriptor::Duplicate(Napi::Env env, int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) Fail(env, errno, "fcntl");
  return New(env, copy);
}

Descriptor::Descriptor(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<Descriptor>(info), fd_(info[0].As<Napi::Number>().Int32Value()) {}

Napi::Value Descriptor::Fd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Get()); }

void Descriptor::Close(const Napi::CallbackInfo&) { fd_.Reset(); }

}  // namespace homeproxy
