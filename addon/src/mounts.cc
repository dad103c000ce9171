// SPDX-License-Identifier: Apache-2.0
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "failure.h"

namespace homeproxy {
namespace {

// One step in another mount namespace: a verb, its words, and its numbers.
struct Step {
  std::string verb;
  std::vector<std::string> words;
  std::vector<long> numbers;

  const char* Word(size_t i) const { return i < words.size() && !words[i].empty() ? words[i].c_str() : nullptr; }
  long Number(size_t i) const { return i < numbers.size() ? numbers[i] : 0; }
};

// -> 0 or errno. Paths are those of the namespace that the thread is in.
int Run(const Step& step) {
  const auto result = [](long status) { return status == 0 ? 0 : errno; };
  const auto unless = [](int error, std::initializer_list<int> fine) {
    for (const int one : fine)
      if (error == one) return 0;
    return error;
  };
  if (step.verb == "mkdir") return unless(result(mkdir(step.Word(0), step.Number(0))), {EEXIST});
  if (step.verb == "touch") {
    const int fd = open(step.Word(0), O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return errno;
    close(fd);
    return 0;
  }
  if (step.verb == "rmdir") return unless(result(rmdir(step.Word(0))), {ENOENT, ENOTEMPTY, EBUSY, EROFS});
  if (step.verb == "symlink") return unless(result(symlink(step.Word(0), step.Word(1))), {EEXIST});
  if (step.verb == "mknod") {
    return result(mknod(step.Word(0), S_IFCHR | step.Number(0), makedev(step.Number(1), step.Number(2))));
  }
  if (step.verb == "mount") {
    return result(mount(step.Word(0), step.Word(1), step.Word(2), step.Number(0), step.Word(3)));
  }
  if (step.verb == "attach") {
    constexpr unsigned kEmptyPath = 0x4;  // MOVE_MOUNT_F_EMPTY_PATH
    return result(syscall(SYS_move_mount, step.Number(0), "", AT_FDCWD, step.Word(0), kEmptyPath));
  }
  if (step.verb == "detach") return unless(result(umount2(step.Word(0), MNT_DETACH)), {EINVAL, ENOENT});
  if (step.verb == "pivot") {  // pivot_root(2): with both at the same place, the old root is on top and can be taken off
    if (chdir(step.Word(0)) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0) {
      return errno;
    }
    return result(chdir("/"));
  }
  return ENOSYS;
}

// (namespace descriptor, [[verb, words, numbers], ...]): every step in order, until one fails.
// On a thread of its own, whose root and working directory are its own too: only so may one of several threads enter a mount
// namespace (setns(2)).
void InMountNamespace(const Napi::CallbackInfo& info) {
  const int fd = IntOf(info[0]);
  std::vector<Step> steps;
  const auto list = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto entry = list.Get(i).As<Napi::Array>();
    Step step{TextOf(entry.Get(0u)), {}, {}};
    const auto words = entry.Get(1u).As<Napi::Array>(), numbers = entry.Get(2u).As<Napi::Array>();
    for (uint32_t j = 0; j < words.Length(); ++j) step.words.push_back(TextOf(words.Get(j)));
    for (uint32_t j = 0; j < numbers.Length(); ++j) {
      step.numbers.push_back(static_cast<long>(numbers.Get(j).As<Napi::Number>().Int64Value()));
    }
    steps.push_back(std::move(step));
  }
  int error = 0;
  std::string where = "setns";
  std::thread([&] {
    if (unshare(CLONE_FS) != 0 || setns(fd, CLONE_NEWNS) != 0) {
      error = errno;
      return;
    }
    umask(0);
    for (const Step& step : steps) {
      where = step.verb + (step.words.empty() ? "" : " " + step.words[0]);
      error = Run(step);
      if (error != 0) return;
    }
  }).join();
  if (error != 0) Fail(info.Env(), error, "in a mount namespace", where);
}

// (path, read only) -> descriptor of a copy of the mount there, which is mounted nowhere yet
Napi::Value CloneMount(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[0]);
  constexpr unsigned kClone = 1;  // OPEN_TREE_CLONE
  const long fd = syscall(SYS_open_tree, AT_FDCWD, path.c_str(), kClone | O_CLOEXEC);
  if (fd < 0) Fail(info.Env(), errno, "open_tree", path);
  if (info[1].As<Napi::Boolean>().Value()) {
    struct {
      uint64_t set, clear, propagation, userns;
    } attributes = {0x1 /* MOUNT_ATTR_RDONLY */, 0, 0, 0};
    if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
      const int error = errno;
      close(fd);
      Fail(info.Env(), error, "mount_setattr", path);
    }
  }
  return Napi::Number::New(info.Env(), static_cast<double>(fd));
}

// (folder's descriptor, path below it, flags, mode) -> descriptor. No link and no `..` on the way leads anywhere else.
Napi::Value OpenBeneath(const Napi::CallbackInfo& info) {
  const std::string path = TextOf(info[1]);
  open_how how = {};
  how.flags = UnsignedOf(info[2]) | O_CLOEXEC;
  how.mode = UnsignedOf(info[3]);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long fd = syscall(SYS_openat2, IntOf(info[0]), path.c_str(), &how, sizeof how);
  if (fd < 0) Fail(info.Env(), errno, "openat2", path);
  return Napi::Number::New(info.Env(), static_cast<double>(fd));
}

}  // namespace

void ExportMounts(Napi::Env env, Napi::Object exports) {
  exports["inMountNamespace"] = Napi::Function::New(env, InMountNamespace, "inMountNamespace");
  exports["cloneMount"] = Napi::Function::New(env, CloneMount, "cloneMount");
  exports["openBeneath"] = Napi::Function::New(env, OpenBeneath, "openBeneath");
}

}  // namespace homeproxy
