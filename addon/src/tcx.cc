// SPDX-License-Identifier: Apache-2.0
/* tcx (Linux 6.6), of which libbpf knows from 1.3 on: by the system call itself. */
#include "tcx.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

// BPF_MPROG_MAX of linux/bpf_mprog.h: the most programs on one side of an interface.
constexpr uint32_t kMostPrograms = 64;

// Of union bpf_attr, as linux/bpf.h has it since 6.6; the headers that this is built with may be older.
struct LinkCreate {
  uint32_t program;
  uint32_t interface;
  uint32_t attach_type;
  uint32_t flags;
  uint32_t relative;
  uint32_t unused;
  uint64_t expected_revision;
};
static_assert(sizeof(LinkCreate) == 32);

struct Query {
  uint32_t interface;
  uint32_t attach_type;
  uint32_t query_flags;
  uint32_t attach_flags;
  uint64_t programs;
  uint32_t count;
  uint32_t unused;
  uint64_t program_flags;
  uint64_t links;
  uint64_t link_flags;
  uint64_t revision;
};
static_assert(sizeof(Query) == 64);

// (program, interface, attach type, flags) -> Descriptor
Napi::Value LinkCreateTcx(const Napi::CallbackInfo& info) {
  LinkCreate attributes = {
      .program = UnsignedOf(info[0]),
      .interface = UnsignedOf(info[1]),
      .attach_type = UnsignedOf(info[2]),
      .flags = UnsignedOf(info[3]),
  };
  const long fd = syscall(SYS_bpf, BPF_LINK_CREATE, &attributes, sizeof attributes);
  if (fd < 0) Fail(info.Env(), errno, "bpf_link_create", "interface " + std::to_string(attributes.interface));
  return Descriptor::New(info.Env(), static_cast<int>(fd));
}

// (program, interface, attach type, flags)
void AttachTcx(const Napi::CallbackInfo& info) {
  const int interface = IntOf(info[1]);
  const auto type = static_cast<bpf_attach_type>(UnsignedOf(info[2]));
  const int error = bpf_prog_attach(IntOf(info[0]), interface, type, UnsignedOf(info[3]));
  if (error != 0) Fail(info.Env(), -error, "bpf_prog_attach", "interface " + std::to_string(interface));
}

// (interface, attach type) -> [program id, link id or 0] of each program, in the order in which they run
Napi::Value TcxQuery(const Napi::CallbackInfo& info) {
  uint32_t programs[kMostPrograms] = {}, links[kMostPrograms] = {};
  Query attributes = {
      .interface = UnsignedOf(info[0]),
      .attach_type = UnsignedOf(info[1]),
      .programs = reinterpret_cast<uintptr_t>(programs),
      .count = kMostPrograms,
      .links = reinterpret_cast<uintptr_t>(links),
  };
  if (syscall(SYS_bpf, BPF_PROG_QUERY, &attributes, sizeof attributes) < 0) {
    Fail(info.Env(), errno, "bpf_prog_query", "interface " + std::to_string(attributes.interface));
  }
  Napi::Array result = Napi::Array::New(info.Env(), attributes.count);
  for (uint32_t i = 0; i < attributes.count; ++i) {
    Napi::Array row = Napi::Array::New(info.Env(), 2);
    row[0u] = programs[i];
    row[1u] = links[i];
    result[i] = row;
  }
  return result;
}

}  // namespace

void ExportTcx(Napi::Env env, Napi::Object exports) {
  exports["linkCreateTcx"] = Napi::Function::New(env, LinkCreateTcx, "linkCreateTcx");
  exports["attachTcx"] = Napi::Function::New(env, AttachTcx, "attachTcx");
  exports["tcxQuery"] = Napi::Function::New(env, TcxQuery, "tcxQuery");
}

}  // namespace homeproxy
