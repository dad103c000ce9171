// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <mutex>
#include <optional>
#include <set>

namespace homeproxy {

// The nice value of all threads that do one piece of work: of those that do it now and of those that take it up later. Each has
// its former one back when it leaves. Any thread may call.
class NiceValue {
 public:
  // Nothing: as each thread had it. What is not permitted is left as it is.
  void Set(std::optional<int> value);

  // The calling thread does the work as long as this lives.
  class Worker {
   public:
    explicit Worker(NiceValue* work);
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

   private:
    friend class NiceValue;
    NiceValue* const work_;
    const pid_t thread_;
    const int former_;
  };

 private:
  void Apply(const Worker& worker) const;

  std::mutex mutex_;
  std::optional<int> value_;
  std::set<const Worker*> workers_;
};

}  // namespace homeproxy
