// SPDX-License-Identifier: Apache-2.0
#include "netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <string>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

// (groups, receive buffer in bytes or 0) -> fd of a non-blocking NETLINK_ROUTE socket that hears those multicast groups
Napi::Value OpenNetlink(const Napi::CallbackInfo& info) {
  UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (netlink.Get() < 0) Fail(info.Env(), errno, "socket", "NETLINK_ROUTE");
  const int room = IntOf(info[1]);
  // Beyond rmem_max only with CAP_NET_ADMIN; without, the smaller buffer overflows sooner, and says so.
  if (room > 0 && setsockopt(netlink.Get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0 &&
      setsockopt(netlink.Get(), SOL_SOCKET, SO_RCVBUF, &room, sizeof room) != 0) {
    Fail(info.Env(), errno, "setsockopt", "SO_RCVBUF");
  }
  sockaddr_nl own = {};
  own.nl_family = AF_NETLINK;
  if (bind(netlink.Get(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0) Fail(info.Env(), errno, "bind");
  const auto groups = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < groups.Length(); i++) {
    const int group = IntOf(groups.Get(i));
    if (setsockopt(netlink.Get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0) {
      Fail(info.Env(), errno, "setsockopt", "group " + std::to_string(group));
    }
  }
  return Napi::Number::New(info.Env(), netlink.Release());
}

// () -> fd of a non-blocking NETLINK_SOCK_DIAG socket (sock_diag(7)) in this thread's network namespace
Napi::Value OpenSocketDiagnostics(const Napi::CallbackInfo& info) {
  UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (netlink.Get() < 0) Fail(info.Env(), errno, "socket", "NETLINK_SOCK_DIAG");
  return Napi::Number::New(info.Env(), netlink.Release());
}

// (fd, messages): to the kernel, which has acted on them when this returns
void SendNetlink(const Napi::CallbackInfo& info) {
  const Bytes messages = BytesOf(info[1]);
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  ssize_t sent;
  do {
    sent = sendto(IntOf(info[0]), messages.data, messages.size, 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) Fail(info.Env(), errno, "sendto");
}

// (fd, buffer) -> bytes of one datagram, or -1 when none waits. ENOBUFS: some were lost, for want of room.
Napi::Value ReceiveNetlink(const Napi::CallbackInfo& info) {
  const Bytes buffer = BytesOf(info[1]);
  for (;;) {
    sockaddr_nl sender = {};
    socklen_t size = sizeof sender;
    const ssize_t received = recvfrom(IntOf(info[0]), buffer.data, buffer.size, MSG_TRUNC,
                                      reinterpret_cast<sockaddr*>(&sender), &size);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) return Napi::Number::New(info.Env(), -1);
    if (received < 0) Fail(info.Env(), errno, "recvfrom");
    if (sender.nl_pid != 0) continue;  // only the kernel has anything to say
    if (static_cast<size_t>(received) > buffer.size) Fail(info.Env(), EMSGSIZE, "recvfrom");
    return Napi::Number::New(info.Env(), static_cast<double>(received));
  }
}

}  // namespace

void ExportNetlink(Napi::Env env, Napi::Object exports) {
  exports["openNetlink"] = Napi::Function::New(env, OpenNetlink, "openNetlink");
  exports["openSocketDiagnostics"] = Napi::Function::New(env, OpenSocketDiagnostics, "openSocketDiagnostics");
  exports["sendNetlink"] = Napi::Function::New(env, SendNetlink, "sendNetlink");
  exports["receiveNetlink"] = Napi::Function::New(env, ReceiveNetlink, "receiveNetlink");
}

}  // namespace homeproxy
