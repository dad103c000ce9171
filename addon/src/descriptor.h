// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>
#include <unistd.h>

#include <utility>

namespace homeproxy {

// Owns a file descriptor in C++.
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    Reset(other.Release());
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int Get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) close(old);
  }

 private:
  int fd_;
};

// Owns a file descriptor for JavaScript: `fd` (-1 once closed), `close()`; collected garbage is closed too.
class Descriptor : public Napi::ObjectWrap<Descriptor> {
 public:
  static Napi::Function Define(Napi::Env env);
  static Napi::Value New(Napi::Env env, int fd);
  // A Descriptor for another number of the same open file.
  static Napi::Value Duplicate(Napi::Env env, int fd);

  explicit Descriptor(const Napi::CallbackInfo& info);

 private:
  Napi::Value Fd(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  UniqueFd fd_;
};

}  // namespace homeproxy
