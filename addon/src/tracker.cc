// SPDX-License-Identifier: Apache-2.0
#include "tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "borrowed-task.h"
#include "descriptor.h"
#include "failure.h"
#include "task.h"
#include "whole-mapping.h"

namespace homeproxy {
namespace {

// linux/userfaultfd.h and linux/fs.h of 6.7
constexpr uint64_t kWriteProtectUnpopulated = 1 << 13, kWriteProtectAsync = 1 << 15;

struct PageRegion {
  uint64_t start, end, categories;
};

struct PageScan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

constexpr unsigned long kPagemapScan = _IOWR('f', 16, PageScan);
constexpr uint64_t kRearm = 1 << 0, kRequireAsync = 1 << 1;
constexpr uint64_t kWritten = 1 << 1, kFile = 1 << 2, kPresent = 1 << 3, kSwapped = 1 << 4, kZeroPage = 1 << 5;
constexpr uint64_t kTogether = 256 << 10;  // to look at so much in full takes no longer than to ask once more

using Ranges = std::vector<uint64_t>;  // start, end, start, end ...

// (pid) -> descriptor of a userfaultfd that tracks writes
Napi::Value TrackWrites(const Napi::CallbackInfo& info) {
  const int pid = IntOf(info[0]);
  auto fd = std::make_shared<UniqueFd>();
  return Task::Start(
      info.Env(),
      [pid, fd](Trouble* trouble) {
        UniqueFd made(BorrowUserfaultfd(pid, trouble));
        if (trouble->error != 0) return;
        uffdio_api api = {};
        api.api = UFFD_API;
        api.features = kWriteProtectAsync | kWriteProtectUnpopulated | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
        if (ioctl(made.Get(), UFFDIO_API, &api) != 0) {
          *trouble = {errno, "UFFDIO_API"};
          return;
        }
        *fd = std::move(made);
      },
      [fd](Napi::Env env) { return Napi::Number::New(env, fd->Release()); });
}

void Append(uint64_t from, uint64_t to, Ranges* found) {
  if (!found->empty() && found->back() == from) {
    found->back() = to;
  } else {
    found->push_back(from);
    found->push_back(to);
  }
}

// All that matches in a range, ascending.
bool Walk(int pagemap, uint64_t start, uint64_t end, PageScan scan, std::vector<PageRegion>* all, Trouble* trouble) {
  std::vector<PageRegion> regions(16384);
  for (uint64_t at = start; at < end;) {
    scan.size = sizeof scan;
    scan.start = at;
    scan.end = end;
    scan.vec = reinterpret_cast<uint64_t>(regions.data());
    scan.vec_len = regions.size();
    const int count = ioctl(pagemap, kPagemapScan, &scan);
    if (count < 0) {
      *trouble = {errno, "PAGEMAP_SCAN"};
      return false;
    }
    all->insert(all->end(), regions.begin(), regions.begin() + count);
    if (scan.walk_end <= at) break;
    at = scan.walk_end;
  }
  // Where the answers were full, 6.18 tells of a region beyond the place where it stopped, and of it once more in the next answer.
  std::sort(all->begin(), all->end(), [](const PageRegion& a, const PageRegion& b) { return a.start < b.start; });
  return true;
}

// The pages in a range that hold memory of the process's own; `rearm` makes the next scan with `written` tell of later writes.
// With `present`, that gets all of them, and `found` those that were written.
bool Scan(int pagemap, uint64_t start, uint64_t end, bool written, bool rearm, Ranges* found, Trouble* trouble,
          Ranges* present = nullptr) {
  PageScan scan = {};
  scan.flags = rearm ? kRearm | kRequireAsync : written ? kRequireAsync : 0;
  scan.category_inverted = kZeroPage | kFile;
  scan.category_mask = kZeroPage | kFile | (written && present == nullptr ? kWritten : 0);
  scan.category_anyof_mask = kPresent | kSwapped;
  scan.return_mask = present == nullptr ? kPresent : kPresent | kWritten;
  std::vector<PageRegion> all;
  if (!Walk(pagemap, start, end, scan, &all, trouble)) return false;
  uint64_t known = start;
  for (const PageRegion& region : all) {
    const uint64_t from = std::max(region.start, known);
    if (from >= region.end) continue;
    if (present != nullptr) Append(from, region.end, present);
    if (present == nullptr || (region.categories & kWritten) != 0) Append(from, region.end, found);
    known = region.end;
  }
  return true;
}

// The same in less time where little was written. Of a page that is armed the kernel need not look at more than its entry (the quick
// way of pagemap_scan_pmd_entry, for WRITTEN alone): such a page is there, for only those were armed, and was not written. The others,
// and what lies between them, are looked at in full: they were written, are gone, or never were.
bool ScanUnarmed(int pagemap, uint64_t start, uint64_t end, Ranges* written, Trouble* trouble, Ranges* present) {
  PageScan scan = {};
  scan.flags = kRequireAsync;
  scan.category_mask = scan.return_mask = kWritten;
  std::vector<PageRegion> unarmed;
  if (!Walk(pagemap, start, end, scan, &unarmed, trouble)) return false;
  uint64_t known = start;
  for (size_t i = 0; i < unarmed.size();) {
    const uint64_t from = std::max(unarmed[i].start, known);
    uint64_t to = std::max(unarmed[i].end, known);
    for (i++; i < unarmed.size() && unarmed[i].start <= to + kTogether; i++) to = std::max(to, unarmed[i].end);
    if (from > known) Append(known, from, present);
    if (from < to && !Scan(pagemap, from, to, true, false, written, trouble, present)) return false;
    known = std::max(known, to);
  }
  if (known < end) Append(known, end, present);
  return true;
}

Ranges RangesOf(const Napi::Value& value) {
  const auto array = value.As<Napi::BigUint64Array>();
  return Ranges(array.Data(), array.Data() + array.ElementLength());
}

Napi::Value ArrayOf(Napi::Env env, const Ranges& ranges) {
  auto array = Napi::BigUint64Array::New(env, ranges.size());
  if (!ranges.empty()) memcpy(array.Data(), ranges.data(), ranges.size() * sizeof ranges[0]);
  return array;
}

// (userfaultfd, pid, mappings) -> the ranges that were written since the last scan. What is not tracked yet is written as a
// whole, and tracked from now on.
Napi::Value ScanWritten(const Napi::CallbackInfo& info) {
  const int uffd = IntOf(info[0]), pid = IntOf(info[1]);
  auto mappings = std::make_shared<Ranges>(RangesOf(info[2]));
  auto found = std::make_shared<Ranges>();
  return Task::Start(
      info.Env(),
      [=](Trouble* trouble) {
        // opened anew each time: an exec gives the process other memory, and a descriptor goes on showing the old one
        const UniqueFd pagemap(open(("/proc/" + std::to_string(pid) + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
        if (pagemap.Get() < 0) {
          *trouble = {errno, "open"};
          return;
        }
        for (size_t i = 0; i + 1 < mappings->size(); i += 2) {
          const uint64_t start = (*mappings)[i], end = (*mappings)[i + 1];
          Ranges written;
          Trouble refused;
          if (Scan(pagemap.Get(), start, end, true, true, &written, &refused)) {
            found->insert(found->end(), written.begin(), written.end());
            continue;
          }
          // Not tracked, or not all of it: all that is there counts as written. Pages that the scan had armed before it failed
          // are among them.
          written.clear();
          // a mapping that went meanwhile is no loss: the next look at the maps shows it
          if (TrackWhole(uffd, pid, start, end)) {
            // A huge page is armed as one; the kernel maps it by small ones when it is written to, and clears the mark of one of those
            // (wp_huge_pmd, mm/memory.c).
            Trouble gone;
            Ranges armed;
            Scan(pagemap.Get(), start, end, false, true, &armed, &gone);
          }
          if (!Scan(pagemap.Get(), start, end, false, false, &written, trouble)) return;
          found->insert(found->end(), written.begin(), written.end());
        }
      },
      [found](Napi::Env env) { return ArrayOf(env, *found); });
}

// (pid, mappings) -> [the ranges that were written since the last scan, those of all pages that are there], in one walk
Napi::Value ScanLast(const Napi::CallbackInfo& info) {
  const int pid = IntOf(info[0]);
  auto mappings = std::make_shared<Ranges>(RangesOf(info[1]));
  auto written = std::make_shared<Ranges>(), present = std::make_shared<Ranges>();
  return Task::Start(
      info.Env(),
      [=](Trouble* trouble) {
        const UniqueFd pagemap(open(("/proc/" + std::to_string(pid) + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
        if (pagemap.Get() < 0) *trouble = {errno, "open"};
        for (size_t i = 0; i + 1 < mappings->size() && trouble->error == 0; i += 2) {
          const uint64_t start = (*mappings)[i], end = (*mappings)[i + 1];
          Ranges here, all;
          Trouble refused;
          if (!ScanUnarmed(pagemap.Get(), start, end, &here, &refused, &all)) {
            all.clear();  // not tracked, or not all of it
            Scan(pagemap.Get(), start, end, false, false, &all, trouble);
            here = all;
          }
          written->insert(written->end(), here.begin(), here.end());
          present->insert(present->end(), all.begin(), all.end());
        }
      },
      [written, present](Napi::Env env) {
        auto both = Napi::Array::New(env, 2);
        both.Set(0u, ArrayOf(env, *written));
        both.Set(1u, ArrayOf(env, *present));
        return both;
      });
}

}  // namespace

void ExportTracker(Napi::Env env, Napi::Object exports) {
  exports["trackWrites"] = Napi::Function::New(env, TrackWrites, "trackWrites");
  exports["scanWritten"] = Napi::Function::New(env, ScanWritten, "scanWritten");
  exports["scanLast"] = Napi::Function::New(env, ScanLast, "scanLast");
}

}  // namespace homeproxy
