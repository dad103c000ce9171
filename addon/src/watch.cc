// SPDX-License-Identifier: Apache-2.0
#include "watch.h"

#include <uv.h>

#include <memory>
#include <string>

#include "arguments.h"
#include "failure.h"

namespace homeproxy {

// Outlives the Watch until the loop has let go of the handle; the hook keeps the environment alive until then.
struct Watch::State {
  uv_poll_t handle;
  napi_async_cleanup_hook_handle hook = nullptr;
  std::function<void(int)> ready;
  Watch* owner = nullptr;

  static void OnReady(uv_poll_t* handle, int status, int) {
    auto* state = static_cast<State*>(handle->data);
    // A copy: Close() inside the call empties the original.
    if (const auto ready = state->ready) ready(status);
  }

  static void OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* data) { static_cast<State*>(data)->Close(); }

  static void OnClosed(uv_handle_t* handle) {
    auto* state = static_cast<State*>(handle->data);
    if (state->hook != nullptr) napi_remove_async_cleanup_hook(state->hook);
    delete state;
  }

  void Close() {
    if (owner != nullptr) owner->state_ = nullptr;
    owner = nullptr;
    ready = nullptr;
    auto* base = reinterpret_cast<uv_handle_t*>(&handle);
    if (!uv_is_closing(base)) uv_close(base, OnClosed);
  }
};

Watch::Watch(Napi::Env env, int fd, std::function<void(int)> ready) : state_(nullptr) {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto state = std::make_unique<State>();
  state->handle.data = state.get();
  if (const int error = uv_poll_init(loop, &state->handle, fd)) {
    Fail(env, -error, "uv_poll_init", "descriptor " + std::to_string(fd));
  }
  // From here on the loop knows the handle: only OnClosed may free it.
  state_ = state.release();
  state_->owner = this;
  state_->ready = std::move(ready);
  napi_add_async_cleanup_hook(env, State::OnEnvironmentEnd, state_, &state_->hook);
  if (const int error = uv_poll_start(&state_->handle, UV_READABLE, State::OnReady)) {
    Close();
    Fail(env, -error, "uv_poll_start", "descriptor " + std::to_string(fd));
  }
}

void Watch::Close() {
  if (state_ != nullptr) state_->Close();
}

void Watch::SetReferenced(bool referenced) {
  if (state_ == nullptr) return;
  auto* base = reinterpret_cast<uv_handle_t*>(&state_->handle);
  if (referenced) {
    uv_ref(base);
  } else {
    uv_unref(base);
  }
}

void CallFromLoop(const Napi::FunctionReference& function, const std::initializer_list<napi_value>& arguments) {
  // Plain Node-API: nothing here may throw in C++, since libuv and libbpf are the callers.
  const Napi::Env env = function.Env();
  napi_value global, result;
  if (napi_get_global(env, &global) != napi_ok) return;
  const napi_status status =
      napi_make_callback(env, nullptr, global, function.Value(), arguments.size(), arguments.begin(), &result);
  if (status == napi_ok) return;
  // A worker that is being terminated runs no JavaScript any more: then nothing is pending.
  bool pending = false;
  napi_value error;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

namespace {

// The JavaScript form: new Watch(fd, callback).
class ScriptWatch : public Napi::ObjectWrap<ScriptWatch> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Watch",
                       {InstanceMethod<&ScriptWatch::Close>("close"), InstanceMethod<&ScriptWatch::Reference>("ref"),
                        InstanceMethod<&ScriptWatch::Unreference>("unref")});
  }

  explicit ScriptWatch(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<ScriptWatch>(info), callback_(Napi::Persistent(info[1].As<Napi::Function>())) {
    watch_ = std::make_unique<Watch>(info.Env(), IntOf(info[0]), [this](int) {
      Napi::HandleScope scope(callback_.Env());
      CallFromLoop(callback_, {});
    });
    // Not to be collected while it watches.
    Ref();
  }

 private:
  void Close(const Napi::CallbackInfo&) {
    if (watch_ == nullptr) return;
    watch_.reset();
    Unref();
  }

  void Reference(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->SetReferenced(true);
  }

  void Unreference(const Napi::CallbackInfo&) {
    if (watch_ != nullptr) watch_->SetReferenced(false);
  }

  Napi::FunctionReference callback_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace

void ExportWatch(Napi::Env env, Napi::Object exports) { exports["Watch"] = ScriptWatch::Define(env); }

}  // namespace homeproxy
