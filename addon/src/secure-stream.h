// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <openssl/ssl.h>
#include <poll.h>
#include <stdint.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "descriptor.h"
#include "failure.h"

namespace homeproxy {

/*
 * TLS 1.3 over a connection whose ends already share a secret: it is the handshake's pre-shared key (RFC 8446, 2.2), beside a fresh
 * key exchange. It blocks, and belongs to one thread at a time; Cut() may come from any.
 */
class SecureStream {
 public:
  static constexpr size_t kSecretBytes = 48;  // as much as the suite's hash has

  // Duplicates the descriptor, which may be a non-blocking one. @param secret kSecretBytes
  SecureStream(int fd, std::vector<uint8_t> secret, bool server);
  ~SecureStream();
  SecureStream(const SecureStream&) = delete;
  SecureStream& operator=(const SecureStream&) = delete;

  // Longest silence of the other end, in milliseconds, for all that follows.
  void SetPatience(int ms) { patience_ = ms; }
  // Bytes per second that are written at most; 0: no limit.
  void SetPace(double rate);

  bool Handshake(Trouble* trouble);
  // ECANCELED when the other end says something: it wants no more.
  bool Write(const void* data, size_t size, Trouble* trouble);
  // The same, whatever the other end says meanwhile, and at any pace.
  bool Say(const void* data, size_t size, Trouble* trouble) { return Put(data, size, false, trouble); }
  // -> bytes, at least one; 0: the other end is through, or `wait` is false and nothing is there; -1: trouble
  ssize_t Read(void* into, size_t room, bool wait, Trouble* trouble);
  bool ended() const { return ended_ && unread_.empty(); }
  // Gives back what was read: it is read again.
  void Unread(const uint8_t* data, size_t size) { unread_.insert(unread_.end(), data, data + size); }
  // After Read() without waiting has found nothing: whether something comes within so many milliseconds; it also ends when
  // something comes from `other`.
  bool Hears(int ms, int other = -1);
  // Lets nothing more than this wait in the kernel: what is written then is not behind much.
  void KeepShort(int bytes);
  int patience() const { return patience_; }
  // Bytes that were written or read so far; any thread may ask.
  uint64_t passed() const { return passed_.load(std::memory_order_relaxed); }
  // Says that nothing more will be written.
  bool Finish(Trouble* trouble);
  // Throws away what still comes, until the other end closes: a reset would destroy what was written last on its way.
  void Drain(int limit_ms);
  void Hold(bool together);
  void Cut();

 private:
  bool Put(const void* data, size_t size, bool listening, Trouble* trouble);
  bool Flush(bool listening, Trouble* trouble);
  bool Wait(int result, const char* call, bool listening, Trouble* trouble);
  bool WaitFor(short what, const char* call, bool listening, Trouble* trouble);
  bool KeepPace(size_t bytes, Trouble* trouble);

  UniqueFd fd_;
  std::vector<uint8_t> secret_;
  const bool server_;
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
  BIO* out_ = nullptr;  // of ssl_
  std::atomic<bool> cut_ = false;
  bool ended_ = false;
  std::atomic<uint64_t> passed_ = 0;
  std::vector<uint8_t> unread_;
  int patience_ = -1;
  double rate_ = 0;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace homeproxy
