// SPDX-License-Identifier: Apache-2.0
#include "socket-walk.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>

#include "descriptor.h"

namespace homeproxy {

bool SocketWalk::Go(const std::vector<int>& pids, const Visit& visit) {
  for (const int pid : pids) {
    const Next next = Process(pid, visit);
    if (next != Next::kGoOn) return next == Next::kEnough;
  }
  return true;
}

SocketWalk::Next SocketWalk::Process(int pid, const Visit& visit) {
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (process.Get() < 0) return Failed("pidfd_open", pid);
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (folder == nullptr) return Failed("opendir", pid);
  while (const dirent* entry = readdir(folder.get())) {
    char target[64];
    const ssize_t length = readlinkat(dirfd(folder.get()), entry->d_name, target, sizeof target - 1);
    if (length < 0 || strncmp(target, "socket:[", 8) != 0) continue;
    target[length] = '\0';
    if (!known_.insert(strtoull(target + 8, nullptr, 10)).second) continue;
    const int number = atoi(entry->d_name);
    const UniqueFd socket(static_cast<int>(syscall(SYS_pidfd_getfd, process.Get(), number, 0)));
    if (socket.Get() >= 0) {
      if (!visit(pid, number, socket.Get())) return Next::kEnough;
    } else if (errno != EBADF && Failed("pidfd_getfd", pid) == Next::kFailed) {
      return Next::kFailed;
    }
  }
  return Next::kGoOn;
}

SocketWalk::Next SocketWalk::Failed(const char* call, int pid) {
  if (errno == ESRCH || errno == ENOENT) return Next::kGoOn;  // it has ended, and holds nothing
  error_ = errno;
  call_ = call;
  subject_ = "process " + std::to_string(pid);
  return Next::kFailed;
}

}  // namespace homeproxy
