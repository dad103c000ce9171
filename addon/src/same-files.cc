// SPDX-License-Identifier: Apache-2.0
#include "same-files.h"

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "task.h"

namespace homeproxy {
namespace {

struct Open {
  int pid, fd;
  int index;
};

/*
 * Finds descriptors of two groups that are the same open file description. kcmp(2) orders them (by their addresses, which it
 * obscures): the first group is sorted, and each of the second is looked for in it.
 */
class Comparison {
 public:
  Comparison(std::vector<Open> ours, std::vector<Open> theirs) : ours_(std::move(ours)), theirs_(std::move(theirs)) {}

  void Run() {
    for (const Open& open : ours_) {
      size_t at;
      if (Find(open, &at) == Found::kNot) sorted_.insert(sorted_.begin() + at, open);
    }
    for (const Open& open : theirs_) {
      size_t at;
      if (Find(open, &at) != Found::kSame) continue;
      pairs_.push_back(sorted_[at].index);
      pairs_.push_back(open.index);
    }
  }

  Napi::Value Pairs(Napi::Env env) const {
    auto result = Napi::Int32Array::New(env, pairs_.size());
    for (size_t at = 0; at < pairs_.size(); at++) result[at] = pairs_[at];
    return result;
  }

 private:
  enum class Found { kSame, kNot, kGone };

  static long Compare(const Open& one, const Open& other) {
    return syscall(SYS_kcmp, one.pid, other.pid, KCMP_FILE, one.fd, other.fd);
  }

  // Where it is, or would be. Descriptors close meanwhile, and processes end.
  Found Find(const Open& wanted, size_t* at) {
    size_t low = 0, high = sorted_.size();
    while (low < high) {
      const size_t middle = (low + high) / 2;
      const long order = Compare(wanted, sorted_[middle]);
      if (order == 0) {
        *at = middle;
        return Found::kSame;
      }
      if (order < 0) {
        if (Compare(wanted, wanted) != 0) return Found::kGone;
        sorted_.erase(sorted_.begin() + middle);
        high--;
      } else if (order == 1) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    *at = low;
    return Found::kNot;
  }

  const std::vector<Open> ours_, theirs_;
  std::vector<Open> sorted_;
  std::vector<int> pairs_;
};

std::vector<Open> OpensOf(const Napi::Value& value) {
  const auto array = value.As<Napi::Int32Array>();
  std::vector<Open> opens;
  for (size_t at = 0; at + 1 < array.ElementLength(); at += 2) {
    opens.push_back({array[at], array[at + 1], static_cast<int>(at / 2)});
  }
  return opens;
}

// (ours, theirs: pairs of a pid and a descriptor) -> a promise of pairs of an index of ours and one of theirs
Napi::Value SameFiles(const Napi::CallbackInfo& info) {
  auto comparison = std::make_shared<Comparison>(OpensOf(info[0]), OpensOf(info[1]));
  return Task::Start(
      info.Env(), [=](Trouble*) { comparison->Run(); }, [=](Napi::Env env) { return comparison->Pairs(env); });
}

}  // namespace

void ExportSameFiles(Napi::Env env, Napi::Object exports) {
  exports["sameFiles"] = Napi::Function::New(env, SameFiles, "sameFiles");
}

}  // namespace homeproxy
