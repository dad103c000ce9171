// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/userfaultfd.h>
#include <stddef.h>
#include <stdint.h>

#include <utility>
#include <vector>

namespace homeproxy {

constexpr uint64_t kPage = 4096;

struct Handover {
  struct Mapping {
    uint64_t start, bytes, at;
  };
  int uffd = -1;
  std::vector<Mapping> mappings;                     // ascending, as the process had them at the source
  std::vector<std::pair<uint64_t, uint64_t>> later;  // start, bytes: inside of those, ascending
};

/*
 * The memory of a process, and of the children that it makes meanwhile, as far as it is still to come. Pages have numbers: those
 * of all mappings, in the order of their addresses at the source, wherever they are now.
 *
 * All that has to be known lies in memory that processes share, so that another can go on where one was killed between any two
 * instructions: an event of the kernel is written there by the read(2) that takes it, and stays until it has been applied; tables
 * are written anew beside the old ones, and then made valid by one store.
 */
class PagerMemory {
 public:
  // Takes the descriptor. -> false: not to be had
  bool Begin(const Handover& handover);
  // Another process has gone on with this before: whoever waits asks again.
  void TakeOver();

  // Descriptors to be polled; a place is -1 where there is none.
  size_t spaces() const;
  int Descriptor(size_t space) const;
  // Reads and applies what the kernel says there, all of it. `wanted` gets pages that somebody waits for.
  void Listen(size_t space, std::vector<uint64_t>* wanted);

  // Puts pages into place wherever they are missing. @param content nullptr: zeros @param wanted as of Listen
  void Deliver(uint64_t page, uint64_t pages, const uint8_t* content, std::vector<uint64_t>* wanted);
  // What waits is woken, and says anew what it waits for.
  void WakeAll();
  // Forgets address spaces whose last process has ended.
  void ForgetEnded();

  // Pages that are missing somewhere.
  uint64_t missing() const;
  bool IsMissing(uint64_t page) const;
  uint64_t pages() const;
  // The number of the page at an address of the source; pages() when it has none.
  uint64_t NumberOf(uint64_t address) const;
  // Ranges of addresses at the source that are missing somewhere: start, bytes.
  std::vector<std::pair<uint64_t, uint64_t>> Missing() const;
  uint64_t AddressOf(uint64_t page) const;
  // Pages from this one on, in the same mapping, at most so many, that are missing.
  uint64_t MissingFrom(uint64_t page, uint64_t most) const;
  uint64_t faults() const;

 private:
  struct Shared;
  struct Region;
  struct Table;

  Table* TableOf(size_t space, unsigned which) const;
  uint64_t* Bits(size_t space) const;
  const Region* RegionOf(size_t space, uint64_t page) const;
  bool Bit(size_t space, uint64_t page) const { return (Bits(space)[page / 64] >> page % 64 & 1) != 0; }
  void Clear(size_t space, uint64_t page, uint64_t pages);
  void ClearAt(size_t space, uint64_t start, uint64_t end);
  void CloseIfWhole(size_t space);
  void Close(size_t space);
  bool ReadMessage(size_t space);
  void Apply(std::vector<uint64_t>* wanted);
  void OnFault(size_t space, uint64_t address, std::vector<uint64_t>* wanted);
  void OnFork(size_t space, int uffd);
  void OnRemap(size_t space, uint64_t from, uint64_t to, uint64_t bytes);
  void DeliverTo(size_t space, uint64_t page, uint64_t pages, const uint8_t* content, std::vector<uint64_t>* wanted);
  void Count(size_t space);
  void CloseStray() const;
  void Wake(size_t space, uint64_t start, uint64_t bytes);

  Shared* shared_ = nullptr;
  size_t space_bytes_ = 0;
  std::vector<uint64_t> left_;  // by space: how many pages are missing there
  bool forked_ = false;
};

}  // namespace homeproxy
