// SPDX-License-Identifier: Apache-2.0
#include "whole-mapping.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace homeproxy {
namespace {

constexpr uint64_t kKernel = uint64_t{1} << 63;  // [vsyscall] is there

struct Mapping {
  uint64_t start, end;
  std::string rest;

  bool operator==(const Mapping&) const = default;
};

std::vector<Mapping> MappingsOf(int pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  std::vector<Mapping> found;
  for (std::string line; std::getline(maps, line);) {
    Mapping mapping;
    int length = 0;
    if (sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 "%n", &mapping.start, &mapping.end, &length) != 2) continue;
    if (mapping.start >= kKernel) break;
    mapping.rest = line.substr(length);
    found.push_back(std::move(mapping));
  }
  return found;
}

struct Neighbours {
  const Mapping* below = nullptr;  // ends here
  const Mapping* above = nullptr;  // begins here

  bool Touch() const { return below != nullptr && above != nullptr; }
};

Neighbours At(const std::vector<Mapping>& mappings, uint64_t place) {
  const auto above = std::lower_bound(mappings.begin(), mappings.end(), place,
                                      [](const Mapping& mapping, uint64_t start) { return mapping.start < start; });
  Neighbours found;
  if (above != mappings.end() && above->start == place) found.above = &*above;
  if (above != mappings.begin() && (above - 1)->end == place) found.below = &*(above - 1);
  return found;
}

}  // namespace

// UFFDIO_REGISTER splits a mapping where its range begins or ends, and mremap() takes no two of which one is tracked (EFAULT; up to
// 6.16 no two at all). To a process whose allocator lets a block grow that way it is as if there were no memory left. It does so
// while we look: so the range goes on to the neighbours, over all the room in which the mapping can grow, or another come to be;
// and what was split nevertheless, because a neighbour changed too, is made one again at once.
//
// Its pages may have marks of earlier tracking: where mremap() moves a tracked mapping back to its tracked neighbour and they become
// one, 6.18 ends the tracking of both and leaves the neighbour's pages as they were. A page that is written then is written
// with its mark, and PAGEMAP_SCAN would never tell of it again.
bool TrackWhole(int uffd, int pid, uint64_t start, uint64_t end) {
  const std::vector<Mapping> before = MappingsOf(pid);
  const auto own = std::find_if(before.begin(), before.end(),
                                [=](const Mapping& mapping) { return mapping.start <= start && end <= mapping.end; });
  if (own == before.end()) return false;
  const uint64_t from = own == before.begin() ? own->start : (own - 1)->end;
  const uint64_t to = own + 1 == before.end() ? own->end : (own + 1)->start;
  uffdio_register area = {};
  area.range = {from, to - from};
  area.mode = UFFDIO_REGISTER_MODE_WP;
  if (ioctl(uffd, UFFDIO_REGISTER, &area) != 0) return false;

  const std::vector<Mapping> after = MappingsOf(pid);
  const Neighbours low = At(before, from), high = At(before, to), low_now = At(after, from), high_now = At(after, to);
  const bool cut_low = low_now.Touch() && !(low.Touch() && *low.below == *low_now.below);
  const bool cut_high = high_now.Touch() && !(high.Touch() && *high.above == *high_now.above);
  uffdio_writeprotect unmark = {};
  unmark.range = area.range;
  if (!cut_low && !cut_high && ioctl(uffd, UFFDIO_WRITEPROTECT, &unmark) == 0) return true;
  ioctl(uffd, UFFDIO_UNREGISTER, &area.range);
  return false;
}

}  // namespace homeproxy
