// SPDX-License-Identifier: Apache-2.0
#include "survey.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"
#include "socket-walk.h"

namespace homeproxy {
namespace {

// What a default is stored as: how many bytes the answer has, and the bytes.
constexpr size_t kLongest = 40, kDefault = 1 + kLongest;
enum Kind : uint8_t { kTcp, kListener = 2, kUdp = 4, kOther = 6, kKinds = 6 };  // those of IPv6 are one more

struct Question {
  int level, name, size, kinds;
};

int Number(int fd, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

Kind KindOf(int fd, bool six) {
  const int type = Number(fd, SO_TYPE), protocol = Number(fd, SO_PROTOCOL);
  if (type == SOCK_STREAM && protocol == IPPROTO_TCP) {
    return static_cast<Kind>((Number(fd, SO_ACCEPTCONN) == 1 ? kListener : kTcp) + six);
  }
  const bool datagrams = type == SOCK_DGRAM && (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE);
  return datagrams ? static_cast<Kind>(kUdp + six) : kOther;
}

/*
 * Asks every internet socket that some processes hold. One record for each, integers as the machine has them:
 *
 *   0     4     8      9          10     12          28      30
 *   +-----+-----+------+----------+------+-----------+-------+-----------------------------------------------+
 *   | pid | fd  | kind | IPv6     | port | address   | count | count * {question u16, length u16, answer}    |
 *   +-----+-----+------+----------+------+-----------+-------+-----------------------------------------------+
 *
 * with the answers that are not what a new socket of its kind gives.
 */
class Survey : public Napi::AsyncWorker {
 public:
  Survey(Napi::Env env, std::vector<int> pids, std::vector<Question> questions, std::vector<uint8_t> defaults)
      : AsyncWorker(env), promise_(env), pids_(std::move(pids)), questions_(std::move(questions)), defaults_(std::move(defaults)) {}
  Napi::Promise Promise() const { return promise_.Promise(); }

 protected:
  void Execute() override {
    walk_.Go(pids_, [this](int pid, int number, int fd) {
      AskSocket(pid, number, fd);
      return true;
    });
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
  void AskSocket(int pid, int number, int fd) {
    sockaddr_storage name = {};
    socklen_t size = sizeof name;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return;
    const bool six = name.ss_family == AF_INET6;
    if (!six && name.ss_family != AF_INET) return;
    const Kind kind = KindOf(fd, six);
    uint8_t address[16] = {};
    const auto* name4 = reinterpret_cast<const sockaddr_in*>(&name);
    const auto* name6 = reinterpret_cast<const sockaddr_in6*>(&name);
    if (six) memcpy(address, &name6->sin6_addr, sizeof address);
    else memcpy(address, &name4->sin_addr, sizeof name4->sin_addr);
    Put(static_cast<int32_t>(pid));
    Put(static_cast<int32_t>(number));
    Put(static_cast<uint8_t>(kind));
    Put(static_cast<uint8_t>(six));
    Put(ntohs(six ? name6->sin6_port : name4->sin_port));
    records_.insert(records_.end(), address, address + sizeof address);
    const size_t at = records_.size();
    Put(static_cast<uint16_t>(0));
    const uint16_t count = kind == kOther ? 0 : AskOptions(kind, fd);
    memcpy(&records_[at], &count, sizeof count);
  }

  uint16_t AskOptions(Kind kind, int fd) {
    uint16_t count = 0;
    for (size_t index = 0; index < questions_.size(); index++) {
      const Question& question = questions_[index];
      if ((question.kinds >> kind & 1) == 0) continue;
      uint8_t answer[kLongest] = {};
      socklen_t size = question.size;
      if (getsockopt(fd, question.level, question.name, answer, &size) != 0) continue;
      const uint8_t* expected = &defaults_[(kind * questions_.size() + index) * kDefault];
      if (size > kLongest || (size == expected[0] && memcmp(answer, expected + 1, size) == 0)) continue;
      Put(static_cast<uint16_t>(index));
      Put(static_cast<uint16_t>(size));
      records_.insert(records_.end(), answer, answer + size);
      count++;
    }
    return count;
  }

  template <typename Integer>
  void Put(Integer value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    records_.insert(records_.end(), bytes, bytes + sizeof value);
  }

  Napi::Promise::Deferred promise_;
  const std::vector<int> pids_;
  const std::vector<Question> questions_;
  const std::vector<uint8_t> defaults_;
  SocketWalk walk_;
  std::vector<uint8_t> records_;
};

std::vector<int> IntsOf(const Napi::Value& value) {
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

// (pids, questions, defaults) -> a promise of the records above
Napi::Value SurveySockets(const Napi::CallbackInfo& info) {
  const std::vector<int> words = IntsOf(info[1]);
  std::vector<Question> questions;
  for (size_t at = 0; at + 3 < words.size(); at += 4) {
    questions.push_back({words[at], words[at + 1], words[at + 2], words[at + 3]});
  }
  const Bytes defaults = BytesOf(info[2]);
  const auto* bytes = static_cast<const uint8_t*>(defaults.data);
  auto* survey = new Survey(info.Env(), IntsOf(info[0]), std::move(questions), {bytes, bytes + defaults.size});
  survey->Queue();
  return survey->Promise();
}

// (pid, descriptors, level, name, value) -> pairs of a descriptor and the errno that it gave
Napi::Value SetSocketsOption(const Napi::CallbackInfo& info) {
  const int pid = IntOf(info[0]), level = IntOf(info[2]), name = IntOf(info[3]);
  const Bytes value = BytesOf(info[4]);
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (process.Get() < 0) Fail(info.Env(), errno, "pidfd_open", "process " + std::to_string(pid));
  Napi::Array failures = Napi::Array::New(info.Env());
  for (const int number : IntsOf(info[1])) {
    const UniqueFd socket(static_cast<int>(syscall(SYS_pidfd_getfd, process.Get(), number, 0)));
    if (socket.Get() >= 0 && setsockopt(socket.Get(), level, name, value.data, value.size) == 0) continue;
    const int error = errno;
    failures[failures.Length()] = Napi::Number::New(info.Env(), number);
    failures[failures.Length()] = Napi::Number::New(info.Env(), error);
  }
  return failures;
}

}  // namespace

void ExportSurvey(Napi::Env env, Napi::Object exports) {
  exports["surveySockets"] = Napi::Function::New(env, SurveySockets, "surveySockets");
  exports["setSocketsOption"] = Napi::Function::New(env, SetSocketsOption, "setSocketsOption");
}

}  // namespace homeproxy
