// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

Napi::Object DescribeProgram(Napi::Env env, int fd) {
  bpf_prog_info kernel = {};
  uint32_t size = sizeof kernel;
  if (const int error = bpf_obj_get_info_by_fd(fd, &kernel, &size)) Fail(env, -error, "bpf_obj_get_info_by_fd");
  std::vector<uint32_t> maps(kernel.nr_map_ids);
  if (!maps.empty()) {
    kernel = {};
    kernel.nr_map_ids = maps.size();
    kernel.map_ids = reinterpret_cast<uintptr_t>(maps.data());
    size = sizeof kernel;
    if (const int error = bpf_obj_get_info_by_fd(fd, &kernel, &size)) Fail(env, -error, "bpf_obj_get_info_by_fd");
  }

  std::string tag;
  for (const uint8_t byte : kernel.tag) {
    char digits[3];
    snprintf(digits, sizeof digits, "%02x", byte);
    tag += digits;
  }
  Napi::Array map_ids = Napi::Array::New(env, maps.size());
  for (size_t i = 0; i < maps.size(); ++i) map_ids[static_cast<uint32_t>(i)] = maps[i];
  const char* type = libbpf_bpf_prog_type_str(static_cast<bpf_prog_type>(kernel.type));
  Napi::Object result = Napi::Object::New(env);
  result["id"] = kernel.id;
  result["name"] = kernel.name;
  result["type"] = type != nullptr ? type : std::to_string(kernel.type);
  result["tag"] = tag;
  result["mapIds"] = map_ids;
  result["runTimeNs"] = Napi::BigInt::New(env, static_cast<uint64_t>(kernel.run_time_ns));
  result["runCount"] = Napi::BigInt::New(env, static_cast<uint64_t>(kernel.run_cnt));
  return result;
}

Napi::Value ProgramInfo(const Napi::CallbackInfo& info) { return DescribeProgram(info.Env(), IntOf(info[0])); }

Napi::Value ProgramInfoById(const Napi::CallbackInfo& info) {
  const uint32_t id = UnsignedOf(info[0]);
  const int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) Fail(info.Env(), -fd, "bpf_prog_get_fd_by_id", "program " + std::to_string(id));
  const UniqueFd program(fd);
  return DescribeProgram(info.Env(), program.Get());
}

Napi::Value ProgramById(const Napi::CallbackInfo& info) {
  const uint32_t id = UnsignedOf(info[0]);
  const int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) Fail(info.Env(), -fd, "bpf_prog_get_fd_by_id", "program " + std::to_string(id));
  return Descriptor::New(info.Env(), fd);
}

// (fd, data in, data out, context in or null, context out or null, repeat) -> [retval, bytes out, ns, context bytes]
Napi::Value TestRun(const Napi::CallbackInfo& info) {
  const Bytes in = BytesOf(info[1]), out = BytesOf(info[2]), context_in = BytesOf(info[3]),
              context_out = BytesOf(info[4]);
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = in.data, .data_out = out.data,
              .data_size_in = static_cast<uint32_t>(in.size), .data_size_out = static_cast<uint32_t>(out.size),
              .ctx_in = context_in.data, .ctx_out = context_out.data,
              .ctx_size_in = static_cast<uint32_t>(context_in.size),
              .ctx_size_out = static_cast<uint32_t>(context_out.size), .repeat = IntOf(info[5]));
  const int error = bpf_prog_test_run_opts(IntOf(info[0]), &options);
  if (error != 0) Fail(info.Env(), -error, "bpf_prog_test_run_opts");
  Napi::Array result = Napi::Array::New(info.Env(), 4);
  result[0u] = options.retval;
  result[1u] = options.data_size_out;
  result[2u] = options.duration;
  result[3u] = options.ctx_size_out;
  return result;
}

void LinkUpdate(const Napi::CallbackInfo& info) {
  const int error = bpf_link_update(IntOf(info[0]), IntOf(info[1]), nullptr);
  if (error != 0) Fail(info.Env(), -error, "bpf_link_update");
}

void LinkDetach(const Napi::CallbackInfo& info) {
  const int error = bpf_link_detach(IntOf(info[0]));
  if (error != 0) Fail(info.Env(), -error, "bpf_link_detach");
}

// BPF_LINK_TYPE_TCX of linux/bpf.h since 6.6.
constexpr uint32_t kLinkTypeTcx = 11;

Napi::Value LinkInfo(const Napi::CallbackInfo& info) {
  bpf_link_info kernel = {};
  uint32_t size = sizeof kernel;
  if (const int error = bpf_obj_get_info_by_fd(IntOf(info[0]), &kernel, &size)) {
    Fail(info.Env(), -error, "bpf_obj_get_info_by_fd");
  }
  Napi::Object result = Napi::Object::New(info.Env());
  result["id"] = kernel.id;
  result["programId"] = kernel.prog_id;
  // Links of both kinds have the interface in the same place.
  const bool has_interface = kernel.type == BPF_LINK_TYPE_XDP || kernel.type == kLinkTypeTcx;
  result["ifindex"] = has_interface ? kernel.xdp.ifindex : 0;
  return result;
}

void Pin(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[1]);
  const int error = bpf_obj_pin(IntOf(info[0]), path.c_str());
  if (error != 0) Fail(info.Env(), -error, "bpf_obj_pin", path);
}

// (path, 'bpf-map' | 'bpf-prog' | 'bpf-link'): the kernel opens whatever is there, so that the kind must be asked for.
Napi::Value GetPinned(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[0]);
  const int fd = bpf_obj_get(path.c_str());
  if (fd < 0) Fail(info.Env(), -fd, "bpf_obj_get", path);
  UniqueFd pinned(fd);
  char kind[64] = {};
  const std::string own = "/proc/self/fd/" + std::to_string(fd);
  if (readlink(own.c_str(), kind, sizeof kind - 1) < 0) Fail(info.Env(), errno, "readlink", own);
  const std::string wanted = TextOf(info[1]);
  // anon_inode:bpf-map, anon_inode:bpf_link, ...: the separator differs between kernels and kinds.
  std::string found = kind;
  for (char& c : found) c = c == '_' ? '-' : c;
  if (found.find(wanted) == std::string::npos) {
    Fail(info.Env(), EINVAL, "bpf_obj_get", path + " (is " + kind + ", not " + wanted + ")");
  }
  return Descriptor::New(info.Env(), pinned.Release());
}

}  // namespace

void ExportProgram(Napi::Env env, Napi::Object exports) {
  exports["programInfo"] = Napi::Function::New(env, ProgramInfo, "programInfo");
  exports["programInfoById"] = Napi::Function::New(env, ProgramInfoById, "programInfoById");
  exports["programById"] = Napi::Function::New(env, ProgramById, "programById");
  exports["testRun"] = Napi::Function::New(env, TestRun, "testRun");
  exports["linkUpdate"] = Napi::Function::New(env, LinkUpdate, "linkUpdate");
  exports["linkDetach"] = Napi::Function::New(env, LinkDetach, "linkDetach");
  exports["linkInfo"] = Napi::Function::New(env, LinkInfo, "linkInfo");
  exports["pin"] = Napi::Function::New(env, Pin, "pin");
  exports["getPinned"] = Napi::Function::New(env, GetPinned, "getPinned");
}

}  // namespace homeproxy
