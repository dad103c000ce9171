// SPDX-License-Identifier: Apache-2.0
#include "secure-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace homeproxy {
namespace {

constexpr char kIdentity[] = "homeproxy";
constexpr unsigned char kSuite[] = {0x13, 0x02};  // TLS_AES_256_GCM_SHA384 (RFC 8446, B.4), Node's own first choice
constexpr size_t kReadAhead = 256 << 10;
constexpr size_t kWriteBehind = 256 << 10;  // records go into the socket by so much at once: each time costs segments and wakes somebody
constexpr std::chrono::milliseconds kMadeUp(100);

// OpenSSL's form of a pre-shared key is a session that never was.
SSL_SESSION* SessionOf(SSL* ssl) {
  const auto* secret = static_cast<const std::vector<uint8_t>*>(SSL_get_app_data(ssl));
  const SSL_CIPHER* suite = SSL_CIPHER_find(ssl, kSuite);
  SSL_SESSION* session = SSL_SESSION_new();
  if (session == nullptr || suite == nullptr) return session;
  SSL_SESSION_set1_master_key(session, secret->data(), secret->size());
  SSL_SESSION_set_cipher(session, suite);
  SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION);
  return session;
}

int OfferKey(SSL* ssl, const EVP_MD* digest, const unsigned char** id, size_t* length, SSL_SESSION** session) {
  *id = reinterpret_cast<const unsigned char*>(kIdentity);
  *length = sizeof kIdentity - 1;
  *session = SessionOf(ssl);
  if (*session == nullptr) return 0;
  // asked again, for another hash: this key has none for it
  return digest == nullptr || EVP_MD_get_size(digest) == static_cast<int>(SecureStream::kSecretBytes);
}

int FindKey(SSL* ssl, const unsigned char* id, size_t length, SSL_SESSION** session) {
  const bool ours = length == sizeof kIdentity - 1 && memcmp(id, kIdentity, length) == 0;
  *session = ours ? SessionOf(ssl) : nullptr;
  return 1;  // without one the handshake goes on, and fails: there is no certificate
}

}  // namespace

SecureStream::SecureStream(int fd, std::vector<uint8_t> secret, bool server)
    : fd_(fcntl(fd, F_DUPFD_CLOEXEC, 0)), secret_(std::move(secret)), server_(server) {
  if (fd_.Get() < 0) return;
  fcntl(fd_.Get(), F_SETFL, fcntl(fd_.Get(), F_GETFL) | O_NONBLOCK);
  context_ = SSL_CTX_new(TLS_method());
  if (context_ == nullptr) return;
  SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION);
  SSL_CTX_set_ciphersuites(context_, "TLS_AES_256_GCM_SHA384");
  SSL_CTX_set_mode(context_, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  // A client trusts nobody for a certificate: the secret, or nothing. A server has none to show, and asks for none.
  SSL_CTX_set_verify(context_, server_ ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_num_tickets(context_, 0);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  if (server_) {
    SSL_CTX_set_psk_find_session_callback(context_, FindKey);
  } else {
    SSL_CTX_set_psk_use_session_callback(context_, OfferKey);
  }
  ssl_ = SSL_new(context_);
  if (ssl_ == nullptr) return;
  SSL_set_app_data(ssl_, &secret_);
  BIO* socket = BIO_new_socket(fd_.Get(), BIO_NOCLOSE);
  out_ = BIO_new(BIO_f_buffer());
  BIO_set_write_buffer_size(out_, kWriteBehind);
  // And come out of it so: were it OpenSSL that read ahead, it would move all that it has for each record (ssl3_read_n, to align it).
  BIO_set_read_buffer_size(out_, kReadAhead);
  BIO_push(out_, socket);
  SSL_set_bio(ssl_, out_, out_);
}

SecureStream::~SecureStream() {
  SSL_free(ssl_);
  SSL_CTX_free(context_);
  OPENSSL_cleanse(secret_.data(), secret_.size());
}

void SecureStream::SetPace(double rate) {
  rate_ = rate;
  next_ = std::chrono::steady_clock::now();
}

// After a call of OpenSSL that did not succeed. -> whether it is to be made again
bool SecureStream::Wait(int result, const char* call, bool listening, Trouble* trouble) {
  const int failed = errno;
  const int why = SSL_get_error(ssl_, result);
  if (cut_) {
    *trouble = {ECONNABORTED, call};
    return false;
  }
  if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
    const bool lost = why == SSL_ERROR_SYSCALL || why == SSL_ERROR_ZERO_RETURN;
    *trouble = {!lost ? EPROTO : failed != 0 ? failed : ECONNRESET, call};
    return false;
  }
  return WaitFor(why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, call, listening, trouble);
}

bool SecureStream::WaitFor(short what, const char* call, bool listening, Trouble* trouble) {
  pollfd waiting = {fd_.Get(), static_cast<short>(what | (listening ? POLLIN : 0)), 0};
  const int ready = poll(&waiting, 1, patience_);
  if (ready < 0 && errno != EINTR) {
    *trouble = {errno, "poll"};
  } else if (ready == 0) {
    *trouble = {ETIMEDOUT, call};
  } else if (cut_) {
    *trouble = {ECONNABORTED, call};
  } else if (listening && (waiting.revents & POLLIN) != 0) {
    *trouble = {ECANCELED, call};
  }
  return trouble->error == 0;
}

bool SecureStream::Handshake(Trouble* trouble) {
  if (ssl_ == nullptr) {
    *trouble = {fd_.Get() < 0 ? EBADF : ENOMEM, "SSL_new"};
    return false;
  }
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int done = server_ ? SSL_accept(ssl_) : SSL_connect(ssl_);
    if (done == 1) break;
    if (!Wait(done, "SSL_do_handshake", false, trouble)) return false;
  }
  if (SSL_session_reused(ssl_) == 1) return true;  // that is: by the key
  *trouble = {EPROTO, "SSL_do_handshake"};
  return false;
}

bool SecureStream::Write(const void* data, size_t size, Trouble* trouble) {
  pollfd heard = {fd_.Get(), POLLIN, 0};
  if (cut_ || poll(&heard, 1, 0) > 0) {
    *trouble = {cut_ ? ECONNABORTED : ECANCELED, "SSL_write"};
    return false;
  }
  return Put(data, size, true, trouble) && KeepPace(size, trouble);
}

bool SecureStream::Put(const void* data, size_t size, bool listening, Trouble* trouble) {
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int done = SSL_write(ssl_, data, static_cast<int>(size));
    if (done > 0) {
      passed_.fetch_add(done, std::memory_order_relaxed);
      return Flush(listening, trouble);
    }
    if (!Wait(done, "SSL_write", listening, trouble)) return false;
  }
}

bool SecureStream::Flush(bool listening, Trouble* trouble) {
  for (;;) {
    errno = 0;
    if (BIO_flush(out_) > 0) return true;
    const int failed = errno;
    if (cut_ || !BIO_should_retry(out_)) {
      *trouble = {cut_ ? ECONNABORTED : failed != 0 ? failed : ECONNRESET, "SSL_write"};
      return false;
    }
    if (!WaitFor(POLLOUT, "SSL_write", listening, trouble)) return false;
  }
}

// Waits until that much may have been sent, and listens meanwhile.
bool SecureStream::KeepPace(size_t bytes, Trouble* trouble) {
  using std::chrono::duration_cast, std::chrono::nanoseconds;
  if (rate_ <= 0) return true;
  const auto now = std::chrono::steady_clock::now();
  // what the reading and the network have cost may be made up for, a long pause not
  next_ = std::max(next_, now - kMadeUp) + nanoseconds(static_cast<int64_t>(static_cast<double>(bytes) / rate_ * 1e9));
  const auto left = std::max<int64_t>(duration_cast<nanoseconds>(next_ - now).count(), 0);
  const timespec pause = {left / 1'000'000'000, left % 1'000'000'000};
  pollfd heard = {fd_.Get(), POLLIN, 0};
  if (ppoll(&heard, 1, &pause, nullptr) <= 0 && !cut_) return true;
  *trouble = {cut_ ? ECONNABORTED : ECANCELED, "SSL_write"};
  return false;
}

ssize_t SecureStream::Read(void* into, size_t room, bool wait, Trouble* trouble) {
  if (!unread_.empty()) {
    const size_t size = std::min(room, unread_.size());
    memcpy(into, unread_.data(), size);
    unread_.erase(unread_.begin(), unread_.begin() + static_cast<ptrdiff_t>(size));
    return static_cast<ssize_t>(size);
  }
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int done = SSL_read(ssl_, into, static_cast<int>(room));
    if (done > 0) {
      passed_.fetch_add(done, std::memory_order_relaxed);
      return done;
    }
    const int why = SSL_get_error(ssl_, done);
    if (why == SSL_ERROR_ZERO_RETURN) {
      ended_ = true;
      return 0;
    }
    if (!wait && why == SSL_ERROR_WANT_READ) return 0;
    if (!Wait(done, "SSL_read", false, trouble)) return -1;
  }
}

bool SecureStream::Hears(int ms, int other) {
  if (cut_) return true;
  pollfd heard[] = {{fd_.Get(), POLLIN, 0}, {other, POLLIN, 0}};
  return poll(heard, 2, ms) > 0 && heard[0].revents != 0;
}

void SecureStream::KeepShort(int bytes) {
  setsockopt(fd_.Get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
}

bool SecureStream::Finish(Trouble* trouble) {
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int done = SSL_shutdown(ssl_);
    if (done >= 0) return Flush(false, trouble);
    if (!Wait(done, "SSL_shutdown", false, trouble)) return false;
  }
}

void SecureStream::Drain(int limit_ms) {
  using Clock = std::chrono::steady_clock;
  std::vector<uint8_t> rest(1 << 16);
  shutdown(fd_.Get(), SHUT_WR);
  for (const auto end = Clock::now() + std::chrono::milliseconds(limit_ms); !cut_;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd heard = {fd_.Get(), POLLIN, 0};
    if (left <= 0 || poll(&heard, 1, static_cast<int>(left)) <= 0) return;  // also one that never ends to send
    const ssize_t got = recv(fd_.Get(), rest.data(), rest.size(), 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return;
  }
}

// Whether what is written may wait for more, and go in segments as large as there are.
void SecureStream::Hold(bool together) {
  const int value = together ? 1 : 0;
  setsockopt(fd_.Get(), IPPROTO_TCP, TCP_CORK, &value, sizeof value);
}

void SecureStream::Cut() {
  cut_ = true;
  shutdown(fd_.Get(), SHUT_RDWR);
}

}  // namespace homeproxy
