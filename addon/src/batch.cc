// SPDX-License-Identifier: Apache-2.0
#include "batch.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <vector>

#include "arguments.h"
#include "failure.h"

namespace homeproxy {
namespace {

// The memory of an array map, seen as words of 8 bytes, and what they were before the run that is being observed.
class WatchedMap {
 public:
  WatchedMap(Napi::Env env, int fd, uint32_t bytes, Napi::Uint32Array rows)
      : before_(bytes / sizeof(uint64_t)), bytes_(bytes), rows_(rows.Data()) {
    void* memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) Fail(env, errno, "mmap", "watched map");
    words_ = static_cast<const uint64_t*>(memory);
    memcpy(before_.data(), words_, bytes_);
  }
  WatchedMap(const WatchedMap&) = delete;
  WatchedMap& operator=(const WatchedMap&) = delete;
  ~WatchedMap() { munmap(const_cast<uint64_t*>(words_), bytes_); }

  // Row of one packet: how many words changed, then index and difference of the first kRoom of them.
  void Report(size_t packet) {
    uint32_t* row = rows_ + packet * kRowWords;
    memset(row, 0, kRowWords * sizeof *row);
    if (memcmp(before_.data(), words_, bytes_) == 0) return;
    for (size_t i = 0; i < before_.size(); ++i) {
      const uint64_t now = words_[i];
      if (now == before_[i]) continue;
      if (const uint32_t place = row[0]++; place < kRoom) {
        row[1 + 2 * place] = static_cast<uint32_t>(i);
        row[2 + 2 * place] = static_cast<uint32_t>(now - before_[i]);
      }
      before_[i] = now;
    }
  }

 private:
  static constexpr uint32_t kRoom = 4;
  static constexpr uint32_t kRowWords = 1 + 2 * kRoom;

  const uint64_t* words_;
  std::vector<uint64_t> before_;
  size_t bytes_;
  uint32_t* rows_;
};

// (fd, packets, lengths, contexts or null, outputs or null, contexts out or null, verdicts, sizes, ns, [[fd, bytes, rows]])
// -> how many packets ran: fewer than all when the next one's output might not fit.
Napi::Value RunBatch(const Napi::CallbackInfo& info) {
  constexpr size_t kHeadroom = 256;  // XDP_PACKET_HEADROOM: by so much a packet can grow
  const int fd = IntOf(info[0]);
  const Bytes in = BytesOf(info[1]), contexts = BytesOf(info[3]), out = BytesOf(info[4]), contexts_out = BytesOf(info[5]);
  const auto lengths = info[2].As<Napi::Uint32Array>();
  auto verdicts = info[6].As<Napi::Int32Array>();
  auto sizes = info[7].As<Napi::Uint32Array>();
  const size_t count = lengths.ElementLength();
  auto durations = info[8].As<Napi::Uint32Array>();
  const auto maps = info[9].As<Napi::Array>();
  std::vector<std::unique_ptr<WatchedMap>> watched;
  for (uint32_t i = 0; i < maps.Length(); ++i) {
    const auto map = maps.Get(i).As<Napi::Array>();
    watched.push_back(std::make_unique<WatchedMap>(info.Env(), IntOf(map.Get(0u)), UnsignedOf(map.Get(1u)),
                                                   map.Get(2u).As<Napi::Uint32Array>()));
  }

  const bool copies = info[4].IsTypedArray();  // an empty one has no address either
  const uint32_t context_size = count > 0 ? contexts.size / count : 0;
  auto* packet = static_cast<uint8_t*>(in.data);
  auto* context = static_cast<uint8_t*>(contexts.data);
  auto* context_out = static_cast<uint8_t*>(contexts_out.data);
  auto* output = static_cast<uint8_t*>(out.data);
  size_t room = out.size, done = 0;
  for (; done < count; ++done) {
    const uint32_t length = lengths[done];
    if (copies && room < length + kHeadroom) break;
    const uint32_t output_room = copies ? length + kHeadroom : 0;
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_out = output, .data_size_in = length,
                .data_size_out = output_room, .ctx_in = context, .ctx_out = context_out,
                .ctx_size_in = context_size, .ctx_size_out = context_size, .repeat = 1);
    const int error = bpf_prog_test_run_opts(fd, &options);
    verdicts[done] = error != 0 ? error : static_cast<int32_t>(options.retval);
    sizes[done] = error != 0 ? 0 : options.data_size_out;
    durations[done] = error != 0 ? 0 : options.duration;
    for (const auto& map : watched) map->Report(done);
    packet += length;
    if (copies) {
      output += sizes[done];
      room -= sizes[done];
    }
    if (context != nullptr) context += context_size;
    if (context_out != nullptr) context_out += context_size;
  }
  return Napi::Number::New(info.Env(), static_cast<double>(done));
}

}  // namespace

void ExportBatch(Napi::Env env, Napi::Object exports) {
  exports["runBatch"] = Napi::Function::New(env, RunBatch, "runBatch");
}

}  // namespace homeproxy
