// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <string>

namespace homeproxy {

// What went wrong, as an errno, and in which call; 0: nothing.
struct Trouble {
  int error = 0;
  const char* syscall = "";
};

// Collects what libbpf prints on this thread while it lives; libbpf itself writes nothing to stderr.
class LogCapture {
 public:
  LogCapture();
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  const std::string& Text() const { return text_; }
  void Append(const char* text) { text_ += text; }

 private:
  std::string text_;
  LogCapture* outer_;
};

// Directs libbpf's prints to the innermost LogCapture of the printing thread.
void InstallLogCapture();

// Throws the JavaScript class BpfError. `error` is a positive errno or libbpf error, `subject` what the call was about.
[[noreturn]] void Fail(Napi::Env env, int error, const char* syscall, const std::string& subject = {},
                       const LogCapture* log = nullptr);

}  // namespace homeproxy
