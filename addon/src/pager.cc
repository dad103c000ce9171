// SPDX-License-Identifier: Apache-2.0
/*
 * Brings the memory of a restored process that was not there when it began to run: pager <folder>. One process that serves, one
 * that waits for its end to go on in its place, and a keeper; none is the daemon, and none needs one to live. They share their
 * descriptors (CLONE_FILES), so that a userfaultfd is never closed because one of them was killed, or two in one moment: with its
 * last descriptor the process would find zeros where its memory is missing. The keeper has a name of its own, for whoever kills by
 * names, and touches neither memory nor line, so that it cannot end by what ends the one that serves: it makes another when neither
 * of the two is left.
 *
 * pager --check: whether this kernel has what it needs; if not, the status is 3 and the error is on stderr.
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
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "memory-record.h"
#include "pager-line.h"
#include "pager-memory.h"

namespace homeproxy {
namespace {

constexpr char kTask[] = "pager.task", kLine[] = "pager.line", kState[] = "pager.state";
constexpr char kName[] = "pager", kKeeperName[] = "memory-keeper";
constexpr int kHandoverMs = 20'000, kLookMs = 1000, kGoodbyeMs = 2000, kUnable = 3;
constexpr useconds_t kMoment = 50, kRest = 10'000;

enum Stage : uint64_t { kWaiting = 0, kServing = 1, kComplete = 2 };

// pager.state, as the machine has integers.
struct PagerState {
  std::atomic<uint64_t> stage, serving, standing_by, keeping;  // pids
  uint64_t later, missing, faults;  // pages that were to come, that are missing now; how often somebody had to wait
  int64_t line;                     // descriptor of the connection with the daemon; -1: none
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

  // Until nothing is missing any more. @param task is told when there are all three, and closed
  [[noreturn]] void Serve(const Handover& handover, int task);

 private:
  bool Surround();
  void StandBy(uint64_t server);
  void Keep();
  bool Follow(uint64_t server);
  void Round();
  void TakeLine();
  void Ask(const std::vector<uint64_t>& pages);
  [[noreturn]] void End();

  PagerState* const state_;
  const int lines_;
  int standing_ = -1, keeping_ = -1;  // of the process that serves: pidfds of the others; -1: there is none
  PagerMemory memory_;
  PagerLine line_;
};

// -> pidfd of a process that lives; -1: it does not
int Living(uint64_t pid) {
  const int fd = pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0)) : -1;
  pollfd gone = {fd, POLLIN, 0};
  if (fd < 0 || poll(&gone, 1, 0) <= 0) return fd;
  close(fd);
  return -1;
}

// -> it has ended, and its descriptor is closed
bool Ended(int* pidfd) {
  pollfd gone = {*pidfd, POLLIN, 0};
  if (*pidfd >= 0 && poll(&gone, 1, 0) <= 0) return false;
  if (*pidfd >= 0) close(*pidfd);
  *pidfd = -1;
  return true;
}

// Waits for its end, for a while. -> it lives
bool LivesOn(uint64_t pid) {
  const int fd = Living(pid);
  pollfd gone = {fd, POLLIN, 0};
  const bool lives = fd >= 0 && poll(&gone, 1, kLookMs) <= 0;
  if (fd >= 0) close(fd);
  return lives;
}

pid_t Split() { return static_cast<pid_t>(syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr)); }

// Of two that would take its place one gets it.
bool Pager::Follow(uint64_t server) {
  return state_->stage == kServing && state_->serving.compare_exchange_strong(server, getpid());
}

// Returns when the place of the server is ours.
void Pager::StandBy(uint64_t server) {
  state_->standing_by = getpid();
  while (getppid() == static_cast<pid_t>(server) && LivesOn(server)) {
  }
  if (!Follow(server)) _exit(state_->stage == kComplete ? 0 : 1);
}

// Returns in a process of its own, when the place of the server is that one's.
void Pager::Keep() {
  const uint64_t self = getpid();
  state_->keeping = self;
  prctl(PR_SET_NAME, kKeeperName);
  for (;;) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (state_->stage == kComplete || state_->keeping != self || (asked_to_end && access(kLine, F_OK) != 0)) _exit(0);
    const uint64_t server = state_->serving;
    if (LivesOn(server) || LivesOn(state_->standing_by) || state_->serving != server) continue;
    if (state_->stage != kServing) _exit(state_->stage == kComplete ? 0 : 1);
    usleep(kRest);  // what ended it may end the next one too, again and again
    const pid_t next = Split();
    if (next == 0) {
      if (!Follow(server)) _exit(0);
      prctl(PR_SET_NAME, kName);
      return;
    }
    while (next > 0 && state_->serving == server && waitpid(next, nullptr, WNOHANG) == 0) usleep(kMoment);
  }
}

// Makes those beside the one that serves, where they are not. -> true: in one of them, which serves from now on
bool Pager::Surround() {
  const uint64_t server = getpid();
  if (standing_ < 0) {
    const pid_t pid = Split();
    if (pid == 0) StandBy(server);
    if (pid == 0) return true;
    state_->standing_by = pid > 0 ? pid : 0;
    standing_ = Living(state_->standing_by);
  }
  if (keeping_ < 0) keeping_ = Living(state_->keeping);  // one that was made for another server
  if (keeping_ < 0) {
    const pid_t pid = Split();
    if (pid == 0) Keep();
    if (pid == 0) return true;
    state_->keeping = pid > 0 ? pid : 0;
    keeping_ = Living(state_->keeping);
  }
  return false;
}

void Pager::Serve(const Handover& handover, int task) {
  if (!memory_.Begin(handover)) _exit(1);
  state_->later = state_->missing = memory_.missing();
  state_->line = -1;
  state_->serving = getpid();
  for (bool follows = false;;) {
    while (Surround()) {
      follows = true;
      task = standing_ = keeping_ = -1;  // descriptors of the one before: their numbers may be others' by now
    }
    if (follows) {
      if (state_->line >= 0) close(static_cast<int>(state_->line));  // half a record may have been read from it
      state_->line = -1;
      line_ = PagerLine();
      memory_.TakeOver();
      follows = false;
    }
    if (task >= 0) {
      if (standing_ < 0 || keeping_ < 0) _exit(1);
      state_->stage = kServing;
      if (write(task, "", 1) != 1) End();
      close(task);
      task = -1;
    }
    do {
      if (memory_.missing() == 0 || (asked_to_end && access(kLine, F_OK) != 0)) End();
      Round();
    } while (!Ended(&standing_) && !Ended(&keeping_));
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

// What is said and heard once, or nothing for a second.
void Pager::Round() {
  std::vector<pollfd> ready = {
      {lines_, POLLIN, 0}, {line_.fd(), line_.events(), 0}, {standing_, POLLIN, 0}, {keeping_, POLLIN, 0}};
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
  if (ready[1].revents != 0 && !line_.Go(&memory_, &wanted)) {
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
  for (const uint64_t other : {state_->standing_by.load(), state_->keeping.load()})
    if (other != 0) kill(static_cast<pid_t>(other), SIGKILL);
  if (line_.fd() >= 0) line_.Finish(kGoodbyeMs);
  _exit(0);
}

int Check() {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  uffdio_api api = {UFFD_API, kPagerEvents, 0};
  if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0) return 0;
  fprintf(stderr, "%s: %s\n", fd < 0 ? "userfaultfd" : "UFFDIO_API", strerror(errno));
  return kUnable;
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

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  return strcmp(argv[1], "--check") == 0 ? homeproxy::Check() : homeproxy::Run(argv[1]);
}
