// SPDX-License-Identifier: Apache-2.0
#include "nice-value.h"

#include <sys/resource.h>
#include <unistd.h>

namespace homeproxy {

// In Linux a nice value is a thread's (sched(7)).
NiceValue::Worker::Worker(NiceValue* work) : work_(work), thread_(gettid()), former_(getpriority(PRIO_PROCESS, 0)) {
  const std::lock_guard<std::mutex> lock(work_->mutex_);
  work_->workers_.insert(this);
  if (work_->value_.has_value()) work_->Apply(*this);
}

NiceValue::Worker::~Worker() {
  const std::lock_guard<std::mutex> lock(work_->mutex_);
  work_->workers_.erase(this);
  if (work_->value_.has_value()) setpriority(PRIO_PROCESS, thread_, former_);
}

void NiceValue::Set(std::optional<int> value) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (value_ == value) return;
  value_ = value;
  for (const Worker* worker : workers_) Apply(*worker);
}

void NiceValue::Apply(const Worker& worker) const {
  setpriority(PRIO_PROCESS, worker.thread_, value_.value_or(worker.former_));
}

}  // namespace homeproxy
