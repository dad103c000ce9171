// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <functional>
#include <utility>

#include "failure.h"

namespace homeproxy {

// Runs off the main thread and answers with a promise.
class Task : public Napi::AsyncWorker {
 public:
  using Work = std::function<void(Trouble*)>;
  using Result = std::function<Napi::Value(Napi::Env)>;

  static Napi::Value Start(Napi::Env env, Work work, Result result) {
    auto* task = new Task(env, std::move(work), std::move(result));
    const Napi::Value promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

  void Execute() override { work_(&trouble_); }

  void OnOK() override {
    const Napi::Env env = Env();
    Napi::HandleScope scope(env);
    if (trouble_.error == 0) {
      deferred_.Resolve(result_(env));
      return;
    }
    try {
      Fail(env, trouble_.error, trouble_.syscall);
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    }
  }

 private:
  Task(Napi::Env env, Work work, Result result)
      : Napi::AsyncWorker(env), deferred_(env), work_(std::move(work)), result_(std::move(result)) {}

  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  Trouble trouble_;
};

}  // namespace homeproxy
