// SPDX-License-Identifier: Apache-2.0
#include "borrowed-task.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "descriptor.h"

namespace homeproxy {

#if defined(__x86_64__)

namespace {

// One thread of another process, stopped, to run system calls in it. Gives it back as it was. From Stop() on it calls nothing but
// the kernel: see BorrowUserfaultfd.
class BorrowedTask {
 public:
  explicit BorrowedTask(pid_t pid) : pid_(pid) {}

  // Looks for all that is needed, before it is stopped.
  bool Prepare(Trouble* trouble) {
    // libuv waits for the children of this process, and would be told of their stops instead of us.
    if (Status("PPid: %d") == getpid()) return Failed(trouble, "PTRACE_SEIZE", EBUSY);
    // A filter that kills for unknown system calls must not see ours.
    options_ = Status("Seccomp: %d") != 0 ? PTRACE_O_SUSPEND_SECCOMP : 0;
    return FindInstruction(trouble);
  }

  BorrowedTask(const BorrowedTask&) = delete;
  BorrowedTask& operator=(const BorrowedTask&) = delete;

  void GiveBack() {
    if (!seized_) return;
    if (saved_) {
      // With the original orig_rax the kernel restarts an interrupted system call by itself, as if we had not been there.
      ptrace(PTRACE_SETREGS, pid_, nullptr, &registers_);
      ptrace(PTRACE_SETSIGMASK, pid_, sizeof mask_, &mask_);
    }
    ptrace(PTRACE_DETACH, pid_, nullptr, reinterpret_cast<void*>(static_cast<long>(signal_)));
    seized_ = false;
  }

  bool Stop(Trouble* trouble) {
    if (ptrace(PTRACE_SEIZE, pid_, nullptr, options_) != 0) return Failed(trouble, "PTRACE_SEIZE");
    seized_ = true;
    if (ptrace(PTRACE_INTERRUPT, pid_, nullptr, nullptr) != 0) return Failed(trouble, "PTRACE_INTERRUPT");
    for (;;) {
      int status = 0;
      if (!Wait(&status, trouble)) return false;
      if (status >> 16 == PTRACE_EVENT_STOP) {
        if (WSTOPSIG(status) == SIGTRAP) break;
        // Somebody has stopped it (SIGSTOP): it shall not run, not even for this.
        return Failed(trouble, "PTRACE_INTERRUPT", EBUSY);
      }
      // A signal that was on its way: it gets that first, and stops for us then.
      if (ptrace(PTRACE_CONT, pid_, nullptr, static_cast<long>(WSTOPSIG(status))) != 0) return Failed(trouble, "PTRACE_CONT");
    }
    if (ptrace(PTRACE_GETREGS, pid_, nullptr, &registers_) != 0) return Failed(trouble, "PTRACE_GETREGS");
    if (registers_.cs != kCode64) return Failed(trouble, "PTRACE_GETREGS", ENOTSUP);
    if (ptrace(PTRACE_GETSIGMASK, pid_, sizeof mask_, &mask_) != 0) return Failed(trouble, "PTRACE_GETSIGMASK");
    const uint64_t all = ~uint64_t{0};
    if (ptrace(PTRACE_SETSIGMASK, pid_, sizeof all, &all) != 0) return Failed(trouble, "PTRACE_SETSIGMASK");
    saved_ = true;
    return true;
  }

  // Result of a system call in the task: negative for an errno.
  bool Call(long number, long argument, long* result, Trouble* trouble) {
    user_regs_struct call = registers_;
    call.rip = instruction_;
    call.orig_rax = -1;  // nothing to restart
    call.rax = number;
    call.rdi = argument;
    if (ptrace(PTRACE_SETREGS, pid_, nullptr, &call) != 0) return Failed(trouble, "PTRACE_SETREGS");
    if (ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) != 0) return Failed(trouble, "PTRACE_SINGLESTEP");
    for (;;) {
      int status = 0;
      if (!Wait(&status, trouble)) return false;
      if (WSTOPSIG(status) == SIGTRAP && status >> 16 == 0) break;
      // SIGSTOP cannot be masked: it comes before the call, and gets the task when we have gone.
      if (status >> 16 == 0) signal_ = WSTOPSIG(status);
      if (ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) != 0) return Failed(trouble, "PTRACE_SINGLESTEP");
    }
    if (ptrace(PTRACE_GETREGS, pid_, nullptr, &call) != 0) return Failed(trouble, "PTRACE_GETREGS");
    *result = static_cast<long>(call.rax);
    return true;
  }

 private:
  static constexpr unsigned kCode64 = 0x33;  // __USER_CS; 32-bit code has another

  // A number in /proc/<pid>/status; 0 when it cannot be read.
  int Status(const char* format) const {
    FILE* status = fopen(("/proc/" + std::to_string(pid_) + "/status").c_str(), "re");
    if (status == nullptr) return 0;
    char line[256];
    int value = 0;
    while (fgets(line, sizeof line, status) != nullptr) {
      if (sscanf(line, format, &value) == 1) break;
    }
    fclose(status);
    return value;
  }

  bool Wait(int* status, Trouble* trouble) {
    pid_t waited;
    do {
      waited = waitpid(pid_, status, __WALL);
    } while (waited < 0 && errno == EINTR);
    if (waited < 0) return Failed(trouble, "waitpid");
    if (WIFSTOPPED(*status)) return true;
    seized_ = saved_ = false;  // it has ended
    return Failed(trouble, "waitpid", ESRCH);
  }

  // The kernel's vDSO has a system call instruction in every process; nothing is written into its text.
  bool FindInstruction(Trouble* trouble) {
    const std::string process = "/proc/" + std::to_string(pid_);
    FILE* maps = fopen((process + "/maps").c_str(), "re");
    if (maps == nullptr) return Failed(trouble, "open");
    unsigned long start = 0, end = 0;
    char line[512];
    while (fgets(line, sizeof line, maps) != nullptr) {
      if (strstr(line, "[vdso]") != nullptr && sscanf(line, "%lx-%lx", &start, &end) == 2) break;
      end = 0;
    }
    fclose(maps);
    if (end == 0) return Failed(trouble, "vdso", ENOTSUP);
    const UniqueFd memory(open((process + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<uint8_t> code(end - start);
    const ssize_t length = pread(memory.Get(), code.data(), code.size(), static_cast<off_t>(start));
    for (ssize_t i = 0; i + 1 < length; ++i) {
      if (code[i] != 0x0f || code[i + 1] != 0x05) continue;
      instruction_ = start + i;
      return true;
    }
    return Failed(trouble, "vdso", ENOTSUP);
  }

  static bool Failed(Trouble* trouble, const char* syscall, int error = errno) {
    *trouble = {error, syscall};
    return false;
  }

  const pid_t pid_;
  bool seized_ = false, saved_ = false;
  int signal_ = 0;
  long options_ = 0;
  user_regs_struct registers_ = {};
  uint64_t mask_ = 0;
  uint64_t instruction_ = 0;
};

struct Loan {
  BorrowedTask* task;
  int pidfd;
  Trouble* trouble;
  int fd = -1;
};

void Borrow(Loan* loan) {
  long theirs = 0, closed = 0;
  Trouble* trouble = loan->trouble;
  if (!loan->task->Stop(trouble)) return;
  // Without UFFD_USER_MODE_ONLY (1) an ordinary user may make none; asynchronous write protection never needs more.
  if (!loan->task->Call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1, &theirs, trouble)) return;
  if (theirs < 0) {
    *trouble = {static_cast<int>(-theirs), "userfaultfd"};
    return;
  }
  loan->fd = static_cast<int>(syscall(SYS_pidfd_getfd, loan->pidfd, theirs, 0));
  if (loan->fd < 0) *trouble = {errno, "pidfd_getfd"};
  loan->task->Call(SYS_close, theirs, &closed, trouble);
}

int BorrowInChild(void* argument) {
  setsid();
  Loan* loan = static_cast<Loan*>(argument);
  Borrow(loan);
  loan->task->GiveBack();
  _exit(0);
}

constexpr size_t kStackBytes = 256 << 10;

}  // namespace

// A tracer that is killed leaves the task where it is, in the midst of what it was made to do, and that is its end. So a process
// of its own does it, which goes on to the end when this one is killed: it shares memory and descriptors with us, and the thread
// that calls waits for it, as with vfork(2). Nothing in it may wait for another thread of ours, which may be gone: no allocation.
int BorrowUserfaultfd(pid_t pid, Trouble* trouble) {
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (pidfd.Get() < 0) {
    *trouble = {errno, "pidfd_open"};
    return -1;
  }
  BorrowedTask task(pid);
  if (!task.Prepare(trouble)) return -1;
  Loan loan = {&task, pidfd.Get(), trouble};
  std::vector<char> stack(kStackBytes);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // our handlers are not for the child
  char* top = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(stack.data() + stack.size()) & ~uintptr_t{63});
  const pid_t child = clone(BorrowInChild, top, CLONE_VM | CLONE_FILES | CLONE_VFORK, &loan);
  if (child < 0) *trouble = {errno, "clone"};
  else while (waitpid(child, nullptr, __WCLONE) < 0 && errno == EINTR) {}
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  UniqueFd ours(loan.fd);
  return trouble->error == 0 ? ours.Release() : -1;
}

#else

int BorrowUserfaultfd(pid_t, Trouble* trouble) {
  *trouble = {ENOTSUP, "userfaultfd"};
  return -1;
}

#endif

}  // namespace homeproxy
