// SPDX-License-Identifier: Apache-2.0
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <string>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

// (name, persist) -> [fd, interface, name]
Napi::Value OpenTap(const Napi::CallbackInfo& info) {
  const std::string name = TextOf(info[0]);
  UniqueFd tap(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (tap.Get() < 0) Fail(info.Env(), errno, "open", "/dev/net/tun");
  ifreq request = {};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  if (ioctl(tap.Get(), TUNSETIFF, &request) != 0) Fail(info.Env(), errno, "TUNSETIFF", name);
  const unsigned interface = if_nametoindex(request.ifr_name);
  if (interface == 0) Fail(info.Env(), errno, "if_nametoindex", request.ifr_name);
  if (info[1].As<Napi::Boolean>().Value() && ioctl(tap.Get(), TUNSETPERSIST, 1) != 0) {
    Fail(info.Env(), errno, "TUNSETPERSIST", name);
  }
  Napi::Array result = Napi::Array::New(info.Env(), 3);
  result[0u] = tap.Release();
  result[1u] = interface;
  result[2u] = Napi::String::New(info.Env(), request.ifr_name);  // the kernel has put a number in place of a %d
  return result;
}

void SetTapPersist(const Napi::CallbackInfo& info) {
  if (ioctl(IntOf(info[0]), TUNSETPERSIST, info[1].As<Napi::Boolean>().Value() ? 1 : 0) != 0) {
    Fail(info.Env(), errno, "TUNSETPERSIST");
  }
}

// -> bytes, or -1 when the call would have to wait
template <typename Transfer>
Napi::Value MoveFrame(const Napi::CallbackInfo& info, const char* syscall, Transfer transfer) {
  const Bytes frame = BytesOf(info[1]);
  ssize_t moved;
  do {
    moved = transfer(IntOf(info[0]), frame.data, frame.size);
  } while (moved < 0 && errno == EINTR);
  if (moved < 0 && errno != EAGAIN) Fail(info.Env(), errno, syscall);
  return Napi::Number::New(info.Env(), static_cast<double>(moved));
}

Napi::Value ReadFrame(const Napi::CallbackInfo& info) { return MoveFrame(info, "read", read); }

Napi::Value WriteFrame(const Napi::CallbackInfo& info) { return MoveFrame(info, "write", write); }

}  // namespace

void ExportTap(Napi::Env env, Napi::Object exports) {
  exports["openTap"] = Napi::Function::New(env, OpenTap, "openTap");
  exports["setTapPersist"] = Napi::Function::New(env, SetTapPersist, "setTapPersist");
  exports["readFrame"] = Napi::Function::New(env, ReadFrame, "readFrame");
  exports["writeFrame"] = Napi::Function::New(env, WriteFrame, "writeFrame");
}

}  // namespace homeproxy
