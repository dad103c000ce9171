// SPDX-License-Identifier: Apache-2.0
#include "streams.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "arguments.h"
#include "failure.h"
#include "socket-walk.h"

namespace homeproxy {
namespace {

enum Queue { kReceive = 1, kSend = 2 };  // include/uapi/linux/tcp.h: TCP_RECV_QUEUE, TCP_SEND_QUEUE

// An integer of a TCP socket; -1 when it has none.
int64_t NumberOf(int fd, int name) {
  uint32_t value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, IPPROTO_TCP, name, &value, &size) == 0 ? value : -1;
}

bool Choose(int fd, int queue) { return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof queue) == 0; }

int64_t SequenceOf(int fd, Queue queue) { return Choose(fd, queue) ? NumberOf(fd, TCP_QUEUE_SEQ) : -1; }

uint32_t WaitingIn(int fd, unsigned long which) {
  int bytes = 0;
  return ioctl(fd, which, &bytes) == 0 && bytes > 0 ? bytes : 0;
}

// The address in 16 bytes, an IPv4 one mapped (RFC 4291, 2.5.5.2), then the port.
void PutEndpoint(std::vector<uint8_t>& records, const sockaddr_storage& name) {
  static constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  const auto* four = reinterpret_cast<const sockaddr_in*>(&name);
  const auto* six = reinterpret_cast<const sockaddr_in6*>(&name);
  const bool is_six = name.ss_family == AF_INET6;
  const auto* address = reinterpret_cast<const uint8_t*>(is_six ? static_cast<const void*>(&six->sin6_addr) : &four->sin_addr);
  if (!is_six) records.insert(records.end(), kMapped, kMapped + sizeof kMapped);
  records.insert(records.end(), address, address + (is_six ? 16 : 4));
  const uint16_t port = ntohs(is_six ? six->sin6_port : four->sin_port);
  records.push_back(port & 0xff);
  records.push_back(port >> 8);
}

/*
 * Asks the connections that some processes hold in TCP_REPAIR mode, at most a number of them. One record for each, integers as
 * the machine has them:
 *
 *   0               16     18               34     36      40     44         48       52
 *   +---------------+------+----------------+------+-------+------+----------+--------+----------------+
 *   | local address | port | remote address | port | state | sent | received | unread | unacknowledged |
 *   +---------------+------+----------------+------+-------+------+----------+--------+----------------+
 *
 * sent, received: the sequence numbers after the last byte that was written to, or has come to, the connection.
 */
class Streams : public Napi::AsyncWorker {
 public:
  Streams(Napi::Env env, std::vector<int> pids, size_t limit) : AsyncWorker(env), promise_(env), pids_(std::move(pids)), limit_(limit) {}
  Napi::Promise Promise() const { return promise_.Promise(); }

 protected:
  void Execute() override {
    size_t left = limit_;
    walk_.Go(pids_, [this, &left](int, int, int fd) { return left > 0 && (!Ask(fd) || --left > 0); });
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (walk_.error() == 0) {
      promise_.Resolve(Napi::Buffer<uint8_t>::Copy(Env(), records_.data(), records_.size()));
      return;
    }
    try {
      Fail(Env(), walk_.error(), walk_.call(), walk_.subject());
    } catch (const Napi::Error& error) {
      promise_.Reject(error.Value());
    }
  }

  void OnError(const Napi::Error& error) override { promise_.Reject(error.Value()); }

 private:
  // False when it is no connection in repair mode: of a running one the numbers cannot be asked.
  bool Ask(int fd) {
    const int64_t chosen = NumberOf(fd, TCP_REPAIR_QUEUE);
    if (chosen < 0) return false;
    sockaddr_storage local = {}, remote = {};
    socklen_t size = sizeof local, remote_size = sizeof remote;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) != 0) return false;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&remote), &remote_size) != 0) return false;
    const int64_t received = SequenceOf(fd, kReceive), sent = SequenceOf(fd, kSend);
    Choose(fd, static_cast<int>(chosen));  // the kernel holds back, or not, what is written meanwhile by what is chosen
    if (received < 0 || sent < 0) return false;
    uint8_t state = 0;  // the first byte of struct tcp_info
    socklen_t one = sizeof state;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &one) != 0) return false;
    PutEndpoint(records_, local);
    PutEndpoint(records_, remote);
    for (const uint32_t value : {uint32_t{state}, static_cast<uint32_t>(sent), static_cast<uint32_t>(received),
                                 WaitingIn(fd, SIOCINQ), WaitingIn(fd, SIOCOUTQ)}) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
      records_.insert(records_.end(), bytes, bytes + sizeof value);
    }
    return true;
  }

  Napi::Promise::Deferred promise_;
  const std::vector<int> pids_;
  const size_t limit_;
  SocketWalk walk_;
  std::vector<uint8_t> records_;
};

// (pids, limit) -> a promise of the records above
Napi::Value SurveyStreams(const Napi::CallbackInfo& info) {
  const auto pids = info[0].As<Napi::Int32Array>();
  auto* streams = new Streams(info.Env(), {pids.Data(), pids.Data() + pids.ElementLength()}, IntOf(info[1]));
  streams->Queue();
  return streams->Promise();
}

}  // namespace

void ExportStreams(Napi::Env env, Napi::Object exports) {
  exports["surveyStreams"] = Napi::Function::New(env, SurveyStreams, "surveyStreams");
}

}  // namespace homeproxy
