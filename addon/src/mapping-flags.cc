// SPDX-License-Identifier: Apache-2.0
#include "mapping-flags.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "descriptor.h"
#include "failure.h"
#include "task.h"

namespace homeproxy {
namespace {

constexpr char kProgram[] = "hp_mappings";

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};

// (path of the object) -> descriptor of the iterator's program. libbpf reads all types of the kernel for it: not on the main thread.
Napi::Value LoadMappingFlags(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[0]);
  auto fd = std::make_shared<UniqueFd>();
  return Task::Start(
      info.Env(),
      [path, fd](Trouble* trouble) {
        const std::unique_ptr<bpf_object, CloseObject> object(bpf_object__open_file(path.c_str(), nullptr));
        if (object == nullptr) {
          *trouble = {errno, "bpf_object__open_file"};
          return;
        }
        if (const int error = bpf_object__load(object.get())) {
          *trouble = {-error, "bpf_object__load"};
          return;
        }
        const bpf_program* program = bpf_object__find_program_by_name(object.get(), kProgram);
        fd->Reset(program == nullptr ? -1 : fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 0));
        if (fd->Get() < 0) *trouble = {program == nullptr ? ENOENT : errno, "bpf_program__fd"};
      },
      [fd](Napi::Env env) { return Napi::Number::New(env, fd->Release()); });
}

bool ReadAll(int fd, std::vector<uint64_t>* found, Trouble* trouble) {
  uint64_t piece[3 * 1024];
  std::string all;
  for (;;) {
    const ssize_t got = read(fd, piece, sizeof piece);
    if (got > 0) all.append(reinterpret_cast<const char*>(piece), got);
    if (got == 0) break;
    if (got < 0 && errno != EINTR && errno != EAGAIN) {
      *trouble = {errno, "read"};
      return false;
    }
  }
  found->resize(all.size() / sizeof(uint64_t));
  memcpy(found->data(), all.data(), found->size() * sizeof(uint64_t));
  return true;
}

// (program, task) -> start, end and flags of each mapping, as this kernel has them in its vm_flags
Napi::Value MappingFlags(const Napi::CallbackInfo& info) {
  const int program = IntOf(info[0]), task = IntOf(info[1]);
  auto found = std::make_shared<std::vector<uint64_t>>();
  return Task::Start(
      info.Env(),
      [=](Trouble* trouble) {
        bpf_iter_link_info wanted = {};
        wanted.task.tid = task;
        LIBBPF_OPTS(bpf_link_create_opts, options, .iter_info = &wanted, .iter_info_len = sizeof wanted);
        const int link = bpf_link_create(program, 0, BPF_TRACE_ITER, &options);
        if (link < 0) {
          *trouble = {-link, "bpf_link_create"};
          return;
        }
        const UniqueFd made(link), iterator(bpf_iter_create(link));
        if (iterator.Get() < 0) {
          *trouble = {errno, "bpf_iter_create"};
          return;
        }
        ReadAll(iterator.Get(), found.get(), trouble);
      },
      [found](Napi::Env env) {
        auto array = Napi::BigUint64Array::New(env, found->size());
        if (!found->empty()) memcpy(array.Data(), found->data(), found->size() * sizeof(uint64_t));
        return array;
      });
}

}  // namespace

void ExportMappingFlags(Napi::Env env, Napi::Object exports) {
  exports["loadMappingFlags"] = Napi::Function::New(env, LoadMappingFlags, "loadMappingFlags");
  exports["mappingFlags"] = Napi::Function::New(env, MappingFlags, "mappingFlags");
}

}  // namespace homeproxy
