// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

namespace homeproxy {

// Goes through the sockets that some processes hold, each once. For use off the main thread: it knows nothing of JavaScript.
class SocketWalk {
 public:
  // (pid, its descriptor, ours for the same socket) -> whether to go on
  using Visit = std::function<bool(int pid, int number, int fd)>;

  // False when it could not look into a process; one that ends meanwhile holds nothing.
  bool Go(const std::vector<int>& pids, const Visit& visit);

  int error() const { return error_; }
  const char* call() const { return call_; }
  const std::string& subject() const { return subject_; }

 private:
  enum class Next { kGoOn, kEnough, kFailed };
  Next Process(int pid, const Visit& visit);
  Next Failed(const char* call, int pid);

  std::unordered_set<unsigned long long> known_;
  int error_ = 0;
  const char* call_ = "";
  std::string subject_;
};

}  // namespace homeproxy
