// SPDX-License-Identifier: Apache-2.0
#include "network.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>

#include <string>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

// The kernel and libbpf say EINVAL, or that nothing is attached, when there is no such interface.
void RequireInterface(Napi::Env env, int interface, const char* syscall) {
  char name[IF_NAMESIZE];
  if (if_indextoname(static_cast<unsigned>(interface), name) != nullptr) return;
  Fail(env, errno == ENXIO ? ENODEV : errno, syscall, "interface " + std::to_string(interface));
}

// info[0] is the interface, info[1] the bits of enum bpf_tc_attach_point.
bpf_tc_hook HookOf(const Napi::CallbackInfo& info, const char* syscall) {
  RequireInterface(info.Env(), IntOf(info[0]), syscall);
  bpf_tc_hook hook = {};
  hook.sz = sizeof hook;
  hook.ifindex = IntOf(info[0]);
  hook.attach_point = static_cast<bpf_tc_attach_point>(IntOf(info[1]));
  return hook;
}

std::string Interface(const bpf_tc_hook& hook) { return "interface " + std::to_string(hook.ifindex); }

// -> whether there was no clsact before
Napi::Value HookCreate(const Napi::CallbackInfo& info) {
  LogCapture log;
  bpf_tc_hook hook = HookOf(info, "bpf_tc_hook_create");
  const int error = bpf_tc_hook_create(&hook);
  if (error != 0 && error != -EEXIST) Fail(info.Env(), -error, "bpf_tc_hook_create", Interface(hook), &log);
  return Napi::Boolean::New(info.Env(), error == 0);
}

// Takes the whole qdisc away, as libbpf does when both directions are named. -> whether there was one
Napi::Value HookDestroy(const Napi::CallbackInfo& info) {
  LogCapture log;
  bpf_tc_hook hook = HookOf(info, "bpf_tc_hook_destroy");
  const int error = bpf_tc_hook_destroy(&hook);
  const bool absent = error == -ENOENT || error == -EINVAL;
  if (error != 0 && !absent) Fail(info.Env(), -error, "bpf_tc_hook_destroy", Interface(hook), &log);
  return Napi::Boolean::New(info.Env(), error == 0);
}

// (interface, direction, priority, handle, program, replace)
void Attach(const Napi::CallbackInfo& info) {
  LogCapture log;
  bpf_tc_hook hook = HookOf(info, "bpf_tc_attach");
  LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = IntOf(info[4]),
              .flags = info[5].As<Napi::Boolean>().Value() ? static_cast<uint32_t>(BPF_TC_F_REPLACE) : 0, .handle = UnsignedOf(info[3]),
              .priority = UnsignedOf(info[2]));
  const int error = bpf_tc_attach(&hook, &options);
  if (error != 0) Fail(info.Env(), -error, "bpf_tc_attach", Interface(hook), &log);
}

// -> id of the program, or 0
Napi::Value Query(const Napi::CallbackInfo& info) {
  LogCapture log;
  bpf_tc_hook hook = HookOf(info, "bpf_tc_query");
  LIBBPF_OPTS(bpf_tc_opts, options, .handle = UnsignedOf(info[3]), .priority = UnsignedOf(info[2]));
  const int error = bpf_tc_query(&hook, &options);
  // Without a clsact qdisc the kernel says EINVAL.
  const bool absent = error == -ENOENT || error == -EINVAL;
  if (error != 0 && !absent) Fail(info.Env(), -error, "bpf_tc_query", Interface(hook), &log);
  return Napi::Number::New(info.Env(), error == 0 ? options.prog_id : 0);
}

void Detach(const Napi::CallbackInfo& info) {
  LogCapture log;
  bpf_tc_hook hook = HookOf(info, "bpf_tc_detach");
  LIBBPF_OPTS(bpf_tc_opts, options, .handle = UnsignedOf(info[3]), .priority = UnsignedOf(info[2]));
  const int error = bpf_tc_detach(&hook, &options);
  if (error != 0) Fail(info.Env(), -error, "bpf_tc_detach", Interface(hook), &log);
}

Napi::Value LinkCreateXdp(const Napi::CallbackInfo& info) {
  LIBBPF_OPTS(bpf_link_create_opts, options, .flags = UnsignedOf(info[2]));
  const int interface = IntOf(info[1]);
  RequireInterface(info.Env(), interface, "bpf_link_create");
  const int fd = bpf_link_create(IntOf(info[0]), interface, BPF_XDP, &options);
  if (fd < 0) Fail(info.Env(), -fd, "bpf_link_create", "interface " + std::to_string(interface));
  return Descriptor::New(info.Env(), fd);
}

// -> [enum of IFLA_XDP_ATTACHED, program id]
Napi::Value XdpQuery(const Napi::CallbackInfo& info) {
  LogCapture log;
  LIBBPF_OPTS(bpf_xdp_query_opts, options);
  const int interface = IntOf(info[0]);
  RequireInterface(info.Env(), interface, "bpf_xdp_query");
  const int error = bpf_xdp_query(interface, 0, &options);
  if (error != 0) Fail(info.Env(), -error, "bpf_xdp_query", "interface " + std::to_string(interface), &log);
  uint32_t program = options.prog_id;
  uint32_t mode = options.attach_mode;
  if (mode == XDP_ATTACHED_MULTI) {
    // Generic and native at once: the native one sees the packet first.
    mode = options.drv_prog_id != 0 ? XDP_ATTACHED_DRV : XDP_ATTACHED_HW;
    program = options.drv_prog_id != 0 ? options.drv_prog_id : options.hw_prog_id;
  }
  Napi::Array result = Napi::Array::New(info.Env(), 2);
  result[0u] = mode;
  result[1u] = program;
  return result;
}

}  // namespace

void ExportNetwork(Napi::Env env, Napi::Object exports) {
  exports["tcHookCreate"] = Napi::Function::New(env, HookCreate, "tcHookCreate");
  exports["tcHookDestroy"] = Napi::Function::New(env, HookDestroy, "tcHookDestroy");
  exports["tcAttach"] = Napi::Function::New(env, Attach, "tcAttach");
  exports["tcQuery"] = Napi::Function::New(env, Query, "tcQuery");
  exports["tcDetach"] = Napi::Function::New(env, Detach, "tcDetach");
  exports["linkCreateXdp"] = Napi::Function::New(env, LinkCreateXdp, "linkCreateXdp");
  exports["xdpQuery"] = Napi::Function::New(env, XdpQuery, "xdpQuery");
}

}  // namespace homeproxy
