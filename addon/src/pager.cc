// SPDX-License-Identifier: Apache-2.0
/*
 * Brings the memory of a restored process that was not there when it began to run: pager <folder>. One process that serves, and
 * one that waits for its end to go on in its place; neither is the daemon, and neither needs one to live. They share their
 * descriptors (CLONE_FILES), so that a userfaultfd is never closed because one of them was killed: with its last descriptor the
 * process would find zeros where its memory is missing.
 *
 * In the folder:
 *   pager.task   a socket. The restored process, still with CRIU's code in it, hands over its userfaultfd and what lies where
 *                (criu-restore.c); it gets a byte when somebody stands by.
 *   pager.line   a socket. The daemon connects it with the source, each time that there is a way: we say what is missing
 *                (LATER ..., END), then what the process waits for (NOW); PAGES and ZERO come; in the end we say DONE.
 *   pager.state  numbers for the daemon (PagerState).
 *
 * SIGTERM ends it when pager.line is no more: who wants that has removed the process before.
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "memory-record.h"
#include "pager-line.h"
#include "pager-memory.h"

namespace homeproxy {
namespace {

constexpr char kTask[] = "pager.task", kLine[] = "pager.line", kState[] = "pager.state";
constexpr int kHandoverMs = 20'000, kLookMs = 1000, kGoodbyeMs = 2000;

enum Stage : uint64_t { kWaiting = 0, kServing = 1, kComplete = 2 };

// pager.state, as the machine has integers.
struct PagerState {
  uint64_t stage, serving, standing_by;  // pids
  uint64_t later, missing, faults;       // pages that were to come, that are missing now; how often somebody had to wait
  int64_t line;                          // descriptor of the connection with the daemon; -1: none
};

volatile sig_atomic_t asked_to_end;

void AskToEnd(int) { asked_to_end = 1; }

int ListenAt(const char* name) {
  sockaddr_un address = {AF_UNIX, {}};
  strncpy(address.sun_path, name, sizeof address.sun_path - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(name);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  return fd >= 0 && bind(fd, generic, sizeof address) == 0 && listen(fd, 4) == 0 ? fd : -1;
}

PagerState* MapState() {
  const int fd = open(kState, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, sizeof(PagerState)) != 0) return nullptr;
  void* made = mmap(nullptr, sizeof(PagerState), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return made == MAP_FAILED ? nullptr : static_cast<PagerState*>(made);
}

bool ReadWhole(int fd, HandoverRecord* record, int* uffd) {
  for (size_t done = 0; done < sizeof *record;) {
    pollfd ready = {fd, POLLIN, 0};
    if (poll(&ready, 1, kHandoverMs) <= 0) return false;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec piece = {reinterpret_cast<char*>(record) + done, sizeof *record - done};
    msghdr message = {nullptr, 0, &piece, 1, control, sizeof control, 0};
    const ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) return false;
    const cmsghdr* brought = CMSG_FIRSTHDR(&message);
    if (brought != nullptr && brought->cmsg_type == SCM_RIGHTS) memcpy(uffd, CMSG_DATA(brought), sizeof *uffd);
    done += got;
  }
  return true;
}

bool TakeHandover(int fd, Handover* handover) {
  HandoverRecord record;
  while (ReadWhole(fd, &record, &handover->uffd)) {
    if (record.kind == kRecordEnd) return handover->uffd >= 0;
    if (record.kind == kRecordMapping) handover->mappings.push_back({record.start, record.bytes, record.at});
    if (record.kind == kRecordLater) handover->later.emplace_back(record.start, record.bytes);
  }
  return false;
}

class Pager {
 public:
  Pager(PagerState* state, int lines) : state_(state), lines_(lines) {}

  // Until nothing is missing any more. @param task is told when somebody stands by, and closed
  [[noreturn]] void Serve(const Handover& handover, int task);

 private:
  void Round(int other);
  void TakeLine();
  void Ask(const std::vector<uint64_t>& pages);
  [[noreturn]] void End();

  PagerState* const state_;
  const int lines_;
  PagerMemory memory_;
  PagerLine line_;
};

// In the process that stands by: until the one that serves is gone.
void AwaitEndOf(pid_t server) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, server, 0));
  pollfd gone = {fd, POLLIN, 0};
  while (fd >= 0 && getppid() == server && poll(&gone, 1, kLookMs) <= 0) {
  }
  if (fd >= 0) close(fd);
}

void Pager::Serve(const Handover& handover, int task) {
  if (!memory_.Begin(handover)) _exit(1);
  state_->later = state_->missing = memory_.missing();
  state_->line = -1;
  for (bool behind = false;;) {
    const pid_t server = getpid();
    state_->serving = server;
    const auto pid = static_cast<pid_t>(syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
    if (pid == 0) {
      AwaitEndOf(server);
      if (state_->stage != kServing) _exit(state_->stage == kComplete ? 0 : 1);
      behind = true;
      task = -1;
      continue;
    }
    const int other = pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, pid, 0)) : -1;
    state_->standing_by = pid > 0 ? pid : 0;
    if (behind) {
      if (state_->line >= 0) close(static_cast<int>(state_->line));  // half a record may have been read from it
      state_->line = -1;
      line_ = PagerLine();
      memory_.TakeOver();
      behind = false;
    }
    if (task >= 0) {
      if (other < 0) _exit(1);
      state_->stage = kServing;
      if (write(task, "", 1) != 1) End();
      close(task);
      task = -1;
    }
    for (pollfd gone = {other, POLLIN, 0}; other < 0 || poll(&gone, 1, 0) == 0;) {
      if (memory_.missing() == 0 || (asked_to_end && access(kLine, F_OK) != 0)) End();
      Round(other);
      if (other < 0) break;
    }
    if (other >= 0) close(other);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

// What is said and heard once, or nothing for a second.
void Pager::Round(int other) {
  std::vector<pollfd> ready = {{lines_, POLLIN, 0}, {other, POLLIN, 0}, {line_.fd(), line_.events(), 0}};
  const size_t fixed = ready.size();
  for (size_t space = 0; space < memory_.spaces(); space++) ready.push_back({memory_.Descriptor(space), POLLIN, 0});
  const int count = poll(ready.data(), ready.size(), kLookMs);
  if (count == 0) memory_.ForgetEnded();
  line_.Live();
  if (count <= 0) return;
  std::vector<uint64_t> wanted;
  for (size_t space = 0; fixed + space < ready.size(); space++)
    if (ready[fixed + space].revents != 0) memory_.Listen(space, &wanted);
  if (ready[0].revents != 0) TakeLine();
  if (ready[2].revents != 0 && !line_.Go(&memory_, &wanted)) {
    close(line_.fd());
    line_ = PagerLine();
    state_->line = -1;
  }
  Ask(wanted);
}

void Pager::TakeLine() {
  const int fd = accept4(lines_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  if (line_.fd() >= 0) close(line_.fd());
  state_->line = fd;
  line_ = PagerLine(fd);
  for (const auto& [start, bytes] : memory_.Missing()) line_.Say(kRecordLater, start, bytes);
  line_.Say(kRecordEnd, 0, 0);
  memory_.WakeAll();  // whoever asked over another line asks again
}

void Pager::Ask(const std::vector<uint64_t>& pages) {
  for (const uint64_t page : pages) line_.Want(memory_, page);
  state_->missing = memory_.missing();
  state_->faults = memory_.faults();
}

void Pager::End() {
  state_->stage = kComplete;
  state_->missing = memory_.missing();
  if (state_->standing_by != 0) kill(static_cast<pid_t>(state_->standing_by), SIGKILL);
  if (line_.fd() >= 0) line_.Finish(kGoodbyeMs);
  _exit(0);
}

int Run(const char* folder) {
  if (chdir(folder) != 0) return 1;
  PagerState* state = MapState();
  const int tasks = ListenAt(kTask), lines = ListenAt(kLine);
  if (state == nullptr || tasks < 0 || lines < 0) return 1;
  struct sigaction action = {};
  action.sa_handler = AskToEnd;
  sigaction(SIGTERM, &action, nullptr);
  for (const int each : {SIGINT, SIGHUP, SIGPIPE}) signal(each, SIG_IGN);
  state->serving = getpid();
  for (;;) {
    pollfd ready = {tasks, POLLIN, 0};
    if (poll(&ready, 1, kLookMs) <= 0) {
      if (asked_to_end || access(kLine, F_OK) != 0) return 0;  // it was given up
      continue;
    }
    const int task = accept4(tasks, nullptr, nullptr, SOCK_CLOEXEC);
    Handover handover;
    if (task < 0 || !TakeHandover(task, &handover)) return 1;
    close(tasks);
    Pager(state, lines).Serve(handover, task);
  }
}

}  // namespace
}  // namespace homeproxy

int main(int argc, char** argv) { return argc == 2 ? homeproxy::Run(argv[1]) : 2; }
