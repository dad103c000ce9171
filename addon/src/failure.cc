// SPDX-License-Identifier: Apache-2.0
#include "failure.h"

#include <bpf/libbpf.h>
#include <string.h>

#include <cstdarg>
#include <cstdio>
#include <vector>

#include "environment.h"

namespace homeproxy {
namespace {

thread_local LogCapture* innermost = nullptr;

// In the kernel only, so that libc has no name for it: the operation is not supported by this map, device, ...
constexpr int kKernelNotSupported = 524;

int Print(enum libbpf_print_level level, const char* format, va_list arguments) {
  if (innermost == nullptr || level == LIBBPF_DEBUG) return 0;
  va_list again;
  va_copy(again, arguments);
  const int length = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length < 0) return length;
  std::vector<char> text(static_cast<size_t>(length) + 1);
  vsnprintf(text.data(), text.size(), format, arguments);
  innermost->Append(text.data());
  return length;
}

std::string CodeOf(int error) {
  if (error == kKernelNotSupported) return "ENOTSUPP";
  if (error >= __LIBBPF_ERRNO__START) return "LIBBPF_" + std::to_string(error);
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : "E" + std::to_string(error);
}

std::string DescriptionOf(int error) {
  if (error == kKernelNotSupported) return "not supported by the kernel here";
  char text[256];
  libbpf_strerror(error, text, sizeof text);
  return text;
}

}  // namespace

LogCapture::LogCapture() : outer_(innermost) { innermost = this; }

LogCapture::~LogCapture() { innermost = outer_; }

void InstallLogCapture() { libbpf_set_print(Print); }

void Fail(Napi::Env env, int error, const char* syscall, const std::string& subject, const LogCapture* log) {
  Napi::HandleScope scope(env);
  Napi::Object init = Napi::Object::New(env);
  init["code"] = CodeOf(error);
  init["errno"] = -error;
  init["syscall"] = syscall;
  init["description"] = DescriptionOf(error);
  if (!subject.empty()) init["subject"] = subject;
  if (log != nullptr && !log->Text().empty()) init["log"] = log->Text();
  throw Napi::Error(env, Environment::Of(env).error_class.New({init}));
}

}  // namespace homeproxy
