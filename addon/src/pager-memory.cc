// SPDX-License-Identifier: Apache-2.0
#include "pager-memory.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "fill.h"

namespace homeproxy {

namespace {
constexpr size_t kMostMappings = 2048, kMostRegions = 8192, kMostSpaces = 4096;
constexpr int kNone = -1;
constexpr useconds_t kMoment = 50;
constexpr uint64_t kFirstAddress = 1 << 16;  // vm.mmap_min_addr: nothing is ever mapped below
}  // namespace

// So many pages, from this one on, lie there in an address space.
struct PagerMemory::Region {
  uint64_t at, page, pages;
};

struct PagerMemory::Table {
  uint64_t count;
  Region regions[kMostRegions];  // in the order of their pages
};

struct PagerMemory::Shared {
  uint64_t pages, mappings, faults;
  struct {
    uint64_t start, first, pages;
  } mapping[kMostMappings];
  struct {
    std::atomic<int> uffd;
    std::atomic<unsigned> table;
  } space[kMostSpaces];
  std::atomic<size_t> spaces;  // places that were ever used
  uffd_msg message;            // what was read last
  unsigned table;              // which was valid there before
  std::atomic<int> from;       // from which space, while it has not been applied
};

bool PagerMemory::Begin(const Handover& handover) {
  uint64_t pages = 0;
  for (const auto& mapping : handover.mappings) pages += mapping.bytes / kPage;
  if (handover.mappings.size() > kMostMappings || handover.mappings.empty()) return false;
  space_bytes_ = 2 * sizeof(Table) + (pages + 63) / 64 * sizeof(uint64_t);
  const size_t bytes = sizeof(Shared) + kMostSpaces * space_bytes_;
  void* made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return false;
  shared_ = static_cast<Shared*>(made);
  shared_->pages = pages;
  shared_->mappings = handover.mappings.size();
  shared_->from = kNone;
  Table* table = TableOf(0, 0);
  uint64_t next = 0;
  for (const auto& [start, size, at] : handover.mappings) {
    shared_->mapping[table->count] = {start, next, size / kPage};
    table->regions[table->count++] = {at, next, size / kPage};
    next += size / kPage;
  }
  for (const auto& [start, size] : handover.later) {
    const uint64_t first = NumberOf(start);
    if (first == pages || NumberOf(start + size - kPage) != first + size / kPage - 1) return false;
    for (uint64_t page = first; page < first + size / kPage; page++) Bits(0)[page / 64] |= uint64_t{1} << page % 64;
  }
  shared_->space[0].uffd = handover.uffd;
  shared_->spaces = 1;
  Count(0);
  CloseIfWhole(0);
  return true;
}

void PagerMemory::TakeOver() {
  std::vector<uint64_t> ignored;  // it is woken, and asks again
  for (size_t space = 0; space < spaces(); space++) Count(space);
  if (shared_->from != kNone) Apply(&ignored);
  CloseStray();
  WakeAll();
}

// The descriptor of a space that was struck off a moment before somebody was killed.
void PagerMemory::CloseStray() const {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {
    char target[64] = {};
    if (readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1) < 0) continue;
    const int fd = atoi(entry->d_name);
    bool known = std::string(target) != "anon_inode:[userfaultfd]";
    for (size_t space = 0; space < spaces() && !known; space++) known = Descriptor(space) == fd;
    if (!known) close(fd);
  }
  closedir(folder);
}

void PagerMemory::Count(size_t space) {
  if (left_.size() <= space) left_.resize(space + 1);
  left_[space] = 0;
  for (uint64_t word = 0; word < (shared_->pages + 63) / 64; word++) left_[space] += __builtin_popcountll(Bits(space)[word]);
}

PagerMemory::Table* PagerMemory::TableOf(size_t space, unsigned which) const {
  auto* first = reinterpret_cast<uint8_t*>(shared_) + sizeof(Shared) + space * space_bytes_;
  return reinterpret_cast<Table*>(first) + which;
}

uint64_t* PagerMemory::Bits(size_t space) const { return reinterpret_cast<uint64_t*>(TableOf(space, 2)); }

size_t PagerMemory::spaces() const { return shared_->spaces; }
int PagerMemory::Descriptor(size_t space) const { return shared_->space[space].uffd; }
uint64_t PagerMemory::pages() const { return shared_->pages; }
uint64_t PagerMemory::faults() const { return shared_->faults; }

uint64_t PagerMemory::NumberOf(uint64_t address) const {
  const auto* first_of_all = shared_->mapping;
  const auto* after = std::upper_bound(first_of_all, first_of_all + shared_->mappings, address,
                                       [](uint64_t wanted, const auto& mapping) { return wanted < mapping.start; });
  if (after == first_of_all) return shared_->pages;
  const auto& [start, first, pages] = after[-1];
  const uint64_t inside = (address - start) / kPage;
  return inside < pages ? first + inside : shared_->pages;
}

uint64_t PagerMemory::AddressOf(uint64_t page) const {
  const auto* first_of_all = shared_->mapping;
  const auto* after = std::upper_bound(first_of_all, first_of_all + shared_->mappings, page,
                                       [](uint64_t wanted, const auto& mapping) { return wanted < mapping.first; });
  return after[-1].start + (page - after[-1].first) * kPage;
}

bool PagerMemory::IsMissing(uint64_t page) const {
  for (size_t space = 0; space < spaces(); space++)
    if (Descriptor(space) != kNone && Bit(space, page)) return true;
  return false;
}

uint64_t PagerMemory::missing() const {
  uint64_t count = 0;
  for (uint64_t word = 0; word < (shared_->pages + 63) / 64; word++) {
    uint64_t any = 0;
    for (size_t space = 0; space < spaces(); space++)
      if (Descriptor(space) != kNone) any |= Bits(space)[word];
    count += __builtin_popcountll(any);
  }
  return count;
}

uint64_t PagerMemory::MissingFrom(uint64_t page, uint64_t most) const {
  const uint64_t start = AddressOf(page);
  uint64_t count = 0;
  while (count < most && NumberOf(start + count * kPage) == page + count && page + count < shared_->pages &&
         IsMissing(page + count))
    count++;
  return count;
}

std::vector<std::pair<uint64_t, uint64_t>> PagerMemory::Missing() const {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (uint64_t page = 0; page < shared_->pages;) {
    const uint64_t count = MissingFrom(page, shared_->pages);
    if (count > 0) ranges.emplace_back(AddressOf(page), count * kPage);
    page += std::max<uint64_t>(count, 1);
  }
  return ranges;
}

const PagerMemory::Region* PagerMemory::RegionOf(size_t space, uint64_t page) const {
  const Table* table = TableOf(space, shared_->space[space].table);
  const Region* end = table->regions + table->count;
  const Region* after = std::upper_bound(table->regions, end, page,
                                         [](uint64_t wanted, const Region& region) { return wanted < region.page; });
  return after != table->regions && page - after[-1].page < after[-1].pages ? after - 1 : nullptr;
}

void PagerMemory::Clear(size_t space, uint64_t page, uint64_t pages) {
  uint64_t* bits = Bits(space);
  for (uint64_t end = page + pages; page < end; page++) {
    if (Bit(space, page)) left_[space]--;
    bits[page / 64] &= ~(uint64_t{1} << page % 64);
  }
}

// Nothing is to come any more to what lies there.
void PagerMemory::ClearAt(size_t space, uint64_t start, uint64_t end) {
  const Table* table = TableOf(space, shared_->space[space].table);
  for (uint64_t i = 0; i < table->count; i++) {
    const Region& region = table->regions[i];
    const uint64_t from = std::max(start, region.at), to = std::min(end, region.at + region.pages * kPage);
    if (from < to) Clear(space, region.page + (from - region.at) / kPage, (to - from) / kPage);
  }
}

// With its last descriptor the kernel lets go of the memory: what was never there is zero, and nobody is asked.
void PagerMemory::CloseIfWhole(size_t space) {
  if (left_[space] == 0) Close(space);
}

void PagerMemory::Close(size_t space) {
  const int uffd = shared_->space[space].uffd.exchange(kNone);
  if (uffd != kNone) close(uffd);
}

void PagerMemory::Wake(size_t space, uint64_t start, uint64_t bytes) {
  uffdio_range range = {start, bytes};
  ioctl(Descriptor(space), UFFDIO_WAKE, &range);
}

void PagerMemory::WakeAll() {
  for (size_t space = 0; space < spaces(); space++)
    if (Descriptor(space) != kNone) Wake(space, kFirstAddress, (uint64_t{1} << 47) - kPage - kFirstAddress);
}

void PagerMemory::ForgetEnded() {
  for (size_t space = 0; space < spaces(); space++) {
    if (Descriptor(space) == kNone) continue;
    // nothing is there: ENOENT, or nobody is: ESRCH
    uffdio_zeropage probe = {{kFirstAddress, kPage}, UFFDIO_ZEROPAGE_MODE_DONTWAKE, 0};
    if (ioctl(Descriptor(space), UFFDIO_ZEROPAGE, &probe) != 0 && errno == ESRCH) Close(space);
  }
}

bool PagerMemory::ReadMessage(size_t space) {
  const int uffd = Descriptor(space);
  if (uffd == kNone) return false;
  memset(&shared_->message, 0, sizeof shared_->message);
  shared_->table = shared_->space[space].table;
  shared_->from = static_cast<int>(space);
  if (read(uffd, &shared_->message, sizeof shared_->message) == sizeof shared_->message) return true;
  shared_->from = kNone;
  return false;
}

void PagerMemory::Listen(size_t space, std::vector<uint64_t>* wanted) {
  while (ReadMessage(space)) Apply(wanted);
  CloseIfWhole(space);
}

// May be called a second time for a message, by the process that goes on.
void PagerMemory::Apply(std::vector<uint64_t>* wanted) {
  const auto space = static_cast<size_t>(shared_->from.load());
  const uffd_msg& message = shared_->message;
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      shared_->faults++;
      OnFault(space, message.arg.pagefault.address & ~(kPage - 1), wanted);
      break;
    case UFFD_EVENT_FORK:
      OnFork(space, static_cast<int>(message.arg.fork.ufd));
      break;
    case UFFD_EVENT_REMAP:
      OnRemap(space, message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
      break;
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      ClearAt(space, message.arg.remove.start, message.arg.remove.end);
      break;
  }
  shared_->from = kNone;
}

void PagerMemory::OnFault(size_t space, uint64_t address, std::vector<uint64_t>* wanted) {
  const Table* table = TableOf(space, shared_->space[space].table);
  for (uint64_t i = 0; i < table->count; i++) {
    const Region& region = table->regions[i];
    if (address < region.at || address >= region.at + region.pages * kPage) continue;
    const uint64_t page = region.page + (address - region.at) / kPage;
    if (!Bit(space, page)) continue;
    wanted->push_back(page);
    return;
  }
  // it never was there, or the process has given it back, or it has come meanwhile
  uffdio_zeropage zero = {{address, kPage}, 0, 0};
  if (ioctl(Descriptor(space), UFFDIO_ZEROPAGE, &zero) != 0) Wake(space, address, kPage);
}

void PagerMemory::OnFork(size_t space, int uffd) {
  size_t place = 0;
  for (size_t each = 0; each < spaces(); each++)
    if (Descriptor(each) == uffd) return;  // the one that was killed had come so far
  while (place < spaces() && Descriptor(place) != kNone) place++;
  while (place == kMostSpaces) {  // until a child ends
    usleep(kMoment);
    ForgetEnded();
    for (place = 0; place < kMostSpaces && Descriptor(place) != kNone;) place++;
  }
  const Table* table = TableOf(space, shared_->space[space].table);
  memcpy(TableOf(place, 0), table, sizeof(uint64_t) + table->count * sizeof(Region));
  memcpy(Bits(place), Bits(space), (shared_->pages + 63) / 64 * sizeof(uint64_t));
  shared_->space[place].table = 0;
  shared_->space[place].uffd = uffd;
  if (place == spaces()) shared_->spaces = place + 1;
  Count(place);
  forked_ = true;
}

void PagerMemory::OnRemap(size_t space, uint64_t from, uint64_t to, uint64_t bytes) {
  const unsigned valid = shared_->table;
  if (shared_->space[space].table != valid) return;  // the one that was killed had come so far
  const Table* old = TableOf(space, valid);
  Table* made = TableOf(space, 1 - valid);
  made->count = 0;
  const auto put = [made, old](uint64_t at, const Region& of, uint64_t start, uint64_t end) {
    if (start >= end) return;
    while (made->count == kMostRegions) pause();  // the process waits for ever: better than memory that is not its own
    made->regions[made->count++] = {at, of.page + (start - of.at) / kPage, (end - start) / kPage};
  };
  for (uint64_t i = 0; i < old->count; i++) {
    const Region& region = old->regions[i];
    const uint64_t start = region.at, end = region.at + region.pages * kPage;
    // The pieces of a region, by what happens to them: moved, or what was there when something was moved there, or neither.
    const uint64_t marks[] = {from, from + bytes, to, to + bytes};
    std::vector<uint64_t> cuts = {start, end};
    for (const uint64_t mark : marks)
      if (mark > start && mark < end) cuts.push_back(mark);
    std::sort(cuts.begin(), cuts.end());
    for (size_t cut = 0; cut + 1 < cuts.size(); cut++) {
      const uint64_t low = cuts[cut], high = cuts[cut + 1];
      if (low >= from && low < from + bytes) {
        put(low - from + to, region, low, high);
      } else if (low >= to && low < to + bytes) {
        if (low < high) Clear(space, region.page + (low - start) / kPage, (high - low) / kPage);
      } else {
        put(low, region, low, high);
      }
    }
  }
  shared_->space[space].table = 1 - valid;
}

void PagerMemory::Deliver(uint64_t page, uint64_t pages, const uint8_t* content, std::vector<uint64_t>* wanted) {
  do {
    forked_ = false;  // one that begins meanwhile has what its parent had, and perhaps a place that we are past
    for (size_t space = 0; space < spaces(); space++) {
      if (Descriptor(space) == kNone) continue;
      DeliverTo(space, page, pages, content, wanted);
      if (Descriptor(space) != kNone) CloseIfWhole(space);
    }
  } while (forked_);
}

void PagerMemory::DeliverTo(size_t space, uint64_t page, uint64_t pages, const uint8_t* content,
                            std::vector<uint64_t>* wanted) {
  uint64_t most = pages;  // at once
  for (uint64_t done = 0; done < pages;) {
    const uint64_t first = page + done;
    const Region* region = Bit(space, first) ? RegionOf(space, first) : nullptr;
    if (region == nullptr) {
      Clear(space, first, 1);
      done++;
      continue;
    }
    uint64_t run = 1;
    const uint64_t limit = std::min({pages - done, most, region->page + region->pages - first});
    while (run < limit && Bit(space, first + run)) run++;
    const uint64_t at = region->at + (first - region->page) * kPage;
    const uint8_t* from = content == nullptr ? nullptr : content + done * kPage;
    int failed = 0;
    const int64_t moved = Fill(Descriptor(space), at, run * kPage, from, &failed);
    if (moved > 0) {
      Clear(space, first, moved / kPage);
      done += moved / kPage;
      most = std::min(2 * most, pages);
      continue;  // and what is left is tried again
    }
    if (failed == ESRCH) {
      Close(space);
      return;
    }
    if (failed == EAGAIN) {  // it is about to say what becomes of its memory, and copies nothing before it was heard
      if (ReadMessage(space)) {
        Apply(wanted);
      } else {
        usleep(kMoment);
      }
    } else if (failed == ENOMEM) {
      usleep(1000 * kMoment);  // its limit is reached: it waits, as for any page then
    } else if (run > 1) {
      most = 1;  // one of them is there already, or they lie in several mappings by now
    } else {
      if (failed == EEXIST) Wake(space, at, kPage);
      Clear(space, first, 1);  // or it is not mapped any more
      done++;
    }
  }
}

}  // namespace homeproxy
