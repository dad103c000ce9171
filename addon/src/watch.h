// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <functional>

namespace homeproxy {

// Calls `ready` on the loop of the thread that made it whenever the descriptor is readable, with 0 or a negative errno.
// Ends with Close(), with its destruction, or with its environment (process.exit, worker.terminate), whichever is
// first. Close() may be called inside `ready`; the descriptor may be closed at once afterwards.
class Watch {
 public:
  Watch(Napi::Env env, int fd, std::function<void(int)> ready);
  ~Watch() { Close(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void Close();
  void SetReferenced(bool referenced);

 private:
  struct State;
  State* state_;
};

// Calls a JavaScript function from the loop. What it throws becomes an uncaught exception.
void CallFromLoop(const Napi::FunctionReference& function, const std::initializer_list<napi_value>& arguments);

void ExportWatch(Napi::Env env, Napi::Object exports);

}  // namespace homeproxy
