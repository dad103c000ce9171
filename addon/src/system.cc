// SPDX-License-Identifier: Apache-2.0
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "arguments.h"
#include "failure.h"

namespace homeproxy {
namespace {

void SetNs(const Napi::CallbackInfo& info) {
  if (setns(IntOf(info[0]), IntOf(info[1])) != 0) Fail(info.Env(), errno, "setns");
}

Napi::Value PidfdOpen(const Napi::CallbackInfo& info) {
  const int pid = IntOf(info[0]);
  const long fd = syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) Fail(info.Env(), errno, "pidfd_open", "process " + std::to_string(pid));
  return Napi::Number::New(info.Env(), static_cast<double>(fd));
}

Napi::Value PidfdGetfd(const Napi::CallbackInfo& info) {
  const int wanted = IntOf(info[1]);
  const long fd = syscall(SYS_pidfd_getfd, IntOf(info[0]), wanted, 0);
  if (fd < 0) Fail(info.Env(), errno, "pidfd_getfd", "descriptor " + std::to_string(wanted));
  return Napi::Number::New(info.Env(), static_cast<double>(fd));
}

void PidfdSendSignal(const Napi::CallbackInfo& info) {
  if (syscall(SYS_pidfd_send_signal, IntOf(info[0]), IntOf(info[1]), nullptr, 0) != 0) {
    Fail(info.Env(), errno, "pidfd_send_signal");
  }
}

// (fd, level, name, room, asked?) -> the option's bytes; some options are asked with bytes of the caller's
Napi::Value GetSockOpt(const Napi::CallbackInfo& info) {
  auto value = Napi::Buffer<uint8_t>::New(info.Env(), UnsignedOf(info[3]));
  const Bytes asked = BytesOf(info[4]);
  if (asked.size > 0) memcpy(value.Data(), asked.data, std::min<size_t>(asked.size, value.Length()));
  socklen_t size = value.Length();
  if (getsockopt(IntOf(info[0]), IntOf(info[1]), IntOf(info[2]), value.Data(), &size) != 0) {
    Fail(info.Env(), errno, "getsockopt");
  }
  // SO_GET_FILTER counts instructions, not bytes, and says how many there are when it is given no room
  return Napi::Buffer<uint8_t>::Copy(info.Env(), value.Data(), std::min<size_t>(size, value.Length()));
}

Napi::Value GetSockName(const Napi::CallbackInfo& info) {
  sockaddr_storage name;
  socklen_t size = sizeof name;
  if (getsockname(IntOf(info[0]), reinterpret_cast<sockaddr*>(&name), &size) != 0) {
    Fail(info.Env(), errno, "getsockname");
  }
  return Napi::Buffer<uint8_t>::Copy(info.Env(), reinterpret_cast<uint8_t*>(&name), std::min<size_t>(size, sizeof name));
}

// (fd) -> what it has to read, in bytes: of TCP that before the urgent byte, if there is one (tcp_inq)
Napi::Value UnreadBytes(const Napi::CallbackInfo& info) {
  int bytes = 0;
  if (ioctl(IntOf(info[0]), SIOCINQ, &bytes) != 0) Fail(info.Env(), errno, "ioctl", "SIOCINQ");
  return Napi::Number::New(info.Env(), bytes);
}

// (fd) -> whether an urgent byte is in what it has to read, or its mark is where reading goes on (tcp_poll, SIOCATMARK)
Napi::Value UrgentMark(const Napi::CallbackInfo& info) {
  pollfd asked = {IntOf(info[0]), POLLPRI, 0};
  if (poll(&asked, 1, 0) < 0) Fail(info.Env(), errno, "poll");
  int at_mark = 0;
  if (ioctl(asked.fd, SIOCATMARK, &at_mark) != 0) Fail(info.Env(), errno, "ioctl", "SIOCATMARK");
  return Napi::Boolean::New(info.Env(), (asked.revents & POLLPRI) != 0 || at_mark != 0);
}

// (domain, type) -> a new socket
Napi::Value NewSocket(const Napi::CallbackInfo& info) {
  const int fd = socket(IntOf(info[0]), IntOf(info[1]) | SOCK_CLOEXEC, 0);
  if (fd < 0) Fail(info.Env(), errno, "socket");
  return Napi::Number::New(info.Env(), fd);
}

void SetSockOpt(const Napi::CallbackInfo& info) {
  const Bytes value = BytesOf(info[3]);
  if (setsockopt(IntOf(info[0]), IntOf(info[1]), IntOf(info[2]), value.data, value.size) != 0) {
    Fail(info.Env(), errno, "setsockopt");
  }
}

void TcpRepair(const Napi::CallbackInfo& info) {
  const int mode = IntOf(info[1]);
  if (setsockopt(IntOf(info[0]), IPPROTO_TCP, TCP_REPAIR, &mode, sizeof mode) != 0) {
    Fail(info.Env(), errno, "setsockopt", "TCP_REPAIR");
  }
}

Napi::Value TcpRepairState(const Napi::CallbackInfo& info) {
  int mode = 0;
  socklen_t size = sizeof mode;
  if (getsockopt(IntOf(info[0]), IPPROTO_TCP, TCP_REPAIR, &mode, &size) != 0) {
    Fail(info.Env(), errno, "getsockopt", "TCP_REPAIR");
  }
  return Napi::Number::New(info.Env(), mode);
}

// (fd, operation) -> false when a non-blocking one would have to wait
Napi::Value Flock(const Napi::CallbackInfo& info) {
  int result;
  do {
    result = flock(IntOf(info[0]), IntOf(info[1]));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EWOULDBLOCK) Fail(info.Env(), errno, "flock");
  return Napi::Boolean::New(info.Env(), result == 0);
}

// (path, name, room) -> the attribute's bytes
Napi::Value GetXattr(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[0]);
  const std::string name = TextOf(info[1]);
  auto value = Napi::Buffer<uint8_t>::New(info.Env(), UnsignedOf(info[2]));
  const ssize_t size = getxattr(path.c_str(), name.c_str(), value.Data(), value.Length());
  if (size < 0) Fail(info.Env(), errno, "getxattr", name + " of " + path);
  return Napi::Buffer<uint8_t>::Copy(info.Env(), value.Data(), size);
}

/* (fd): children do not inherit it. For descriptors that a library opened without O_CLOEXEC. */
Napi::Value CloseOnExec(const Napi::CallbackInfo& info) {
  const int fd = IntOf(info[0]);
  const int flags = fcntl(fd, F_GETFD);
  if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) != 0) Fail(info.Env(), errno, "fcntl");
  return info.Env().Undefined();
}

/* (fd) -> the seals of a memfd */
Napi::Value MemfdSeals(const Napi::CallbackInfo& info) {
  const int seals = fcntl(IntOf(info[0]), F_GET_SEALS);
  if (seals < 0) Fail(info.Env(), errno, "fcntl", "F_GET_SEALS");
  return Napi::Number::New(info.Env(), seals);
}

/* (fd, bytes) -> the room that the pipe has now: the kernel rounds up to a power of two pages */
Napi::Value SetPipeSize(const Napi::CallbackInfo& info) {
  const int size = fcntl(IntOf(info[0]), F_SETPIPE_SZ, IntOf(info[1]));
  if (size < 0) Fail(info.Env(), errno, "fcntl", "F_SETPIPE_SZ");
  return Napi::Number::New(info.Env(), size);
}

/* (path): a FIFO that only its owner may open */
void MakeFifo(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[0]);
  if (mkfifo(path.c_str(), 0600) != 0) Fail(info.Env(), errno, "mkfifo", path);
}

/* (name) -> its index in this thread's network namespace */
Napi::Value InterfaceIndex(const Napi::CallbackInfo& info) {
  const std::string name = TextOf(info[0]);
  const unsigned index = if_nametoindex(name.c_str());
  if (index == 0) Fail(info.Env(), errno, "if_nametoindex", name);
  return Napi::Number::New(info.Env(), index);
}

}  // namespace

void ExportSystem(Napi::Env env, Napi::Object exports) {
  exports["setns"] = Napi::Function::New(env, SetNs, "setns");
  exports["pidfdOpen"] = Napi::Function::New(env, PidfdOpen, "pidfdOpen");
  exports["pidfdGetfd"] = Napi::Function::New(env, PidfdGetfd, "pidfdGetfd");
  exports["pidfdSendSignal"] = Napi::Function::New(env, PidfdSendSignal, "pidfdSendSignal");
  exports["getsockopt"] = Napi::Function::New(env, GetSockOpt, "getsockopt");
  exports["getsockname"] = Napi::Function::New(env, GetSockName, "getsockname");
  exports["unreadBytes"] = Napi::Function::New(env, UnreadBytes, "unreadBytes");
  exports["urgentMark"] = Napi::Function::New(env, UrgentMark, "urgentMark");
  exports["newSocket"] = Napi::Function::New(env, NewSocket, "newSocket");
  exports["setsockopt"] = Napi::Function::New(env, SetSockOpt, "setsockopt");
  exports["tcpRepair"] = Napi::Function::New(env, TcpRepair, "tcpRepair");
  exports["tcpRepairState"] = Napi::Function::New(env, TcpRepairState, "tcpRepairState");
  exports["closeOnExec"] = Napi::Function::New(env, CloseOnExec, "closeOnExec");
  exports["memfdSeals"] = Napi::Function::New(env, MemfdSeals, "memfdSeals");
  exports["setPipeSize"] = Napi::Function::New(env, SetPipeSize, "setPipeSize");
  exports["makeFifo"] = Napi::Function::New(env, MakeFifo, "makeFifo");
  exports["interfaceIndex"] = Napi::Function::New(env, InterfaceIndex, "interfaceIndex");
  exports["getxattr"] = Napi::Function::New(env, GetXattr, "getxattr");
  exports["flock"] = Napi::Function::New(env, Flock, "flock");
  Napi::Object constants = Napi::Object::New(env);
  constants["CLONE_NEWNET"] = CLONE_NEWNET;
  constants["LOCK_SH"] = LOCK_SH;
  constants["LOCK_EX"] = LOCK_EX;
  constants["LOCK_UN"] = LOCK_UN;
  constants["LOCK_NB"] = LOCK_NB;
  constants["TCP_REPAIR_ON"] = TCP_REPAIR_ON;
  constants["TCP_REPAIR_OFF"] = TCP_REPAIR_OFF;
  constants["TCP_REPAIR_OFF_NO_WP"] = TCP_REPAIR_OFF_NO_WP;
  exports["constants"] = constants;
}

}  // namespace homeproxy
