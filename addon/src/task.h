// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>
#include <errno.h>
#include <pthread.h>

#include <functional>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "failure.h"

namespace homeproxy {

using Work = std::function<void(Trouble*)>;
using Result = std::function<Napi::Value(Napi::Env)>;

// Runs off the main thread, in libuv's pool, and answers with a promise.
class Task : public Napi::AsyncWorker {
 public:
  static Napi::Value Start(Napi::Env env, Work work, Result result) {
    auto* task = new Task(env, std::move(work), std::move(result));
    const Napi::Value promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

  // The end of any such work: fulfils its promise, or says what went wrong.
  static void Settle(Napi::Env env, const Napi::Promise::Deferred& deferred, const Trouble& trouble, const Result& result) {
    Napi::HandleScope scope(env);
    if (trouble.error == 0) {
      deferred.Resolve(result(env));
      return;
    }
    try {
      Fail(env, trouble.error, trouble.syscall);
    } catch (const Napi::Error& error) {
      deferred.Reject(error.Value());
    }
  }

  void Execute() override { work_(&trouble_); }
  void OnOK() override { Settle(Env(), deferred_, trouble_, result_); }

 private:
  Task(Napi::Env env, Work work, Result result)
      : Napi::AsyncWorker(env), deferred_(env), work_(std::move(work)), result_(std::move(result)) {}

  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  Trouble trouble_;
};

// The same for work that waits for other machines: in a thread of its own, for libuv has only four, which all files share.
class LongTask {
 public:
  // Throws EAGAIN where no thread can be had.
  static Napi::Value Start(Napi::Env env, Work work, Result result) {
    const std::shared_ptr<LongTask> task(new LongTask(env, std::move(work), std::move(result)));
    const Napi::Value promise = task->deferred_.Promise();
    task->done_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "homeproxy", 0, 1);
    try {
      std::thread(Run, task).detach();
    } catch (const std::system_error& error) {
      task->done_.Release();
      Fail(env, error.code().value(), "pthread_create");
    }
    return promise;
  }

 private:
  LongTask(Napi::Env env, Work work, Result result) : deferred_(env), work_(std::move(work)), result_(std::move(result)) {}

  static void Run(std::shared_ptr<LongTask> task) {
    pthread_setname_np(pthread_self(), "homeproxy-line");
    try {
      task->work_(&task->trouble_);
    } catch (const std::bad_alloc&) {
      task->trouble_ = {ENOMEM, "malloc"};
    }
    const Napi::ThreadSafeFunction done = task->done_;
    // its promise belongs to the main thread, which lets go of it
    auto* owner = new std::shared_ptr<LongTask>(std::move(task));
    const napi_status told = done.BlockingCall(owner, [](Napi::Env env, Napi::Function, std::shared_ptr<LongTask>* owned) {
      if (env != nullptr) Task::Settle(env, (*owned)->deferred_, (*owned)->trouble_, (*owned)->result_);
      delete owned;
    });
    if (told == napi_ok) done.Release();  // else the environment is gone, and all that was its own
  }

  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  Trouble trouble_;
  Napi::ThreadSafeFunction done_;
};

}  // namespace homeproxy
