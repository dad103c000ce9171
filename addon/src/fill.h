// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>

namespace homeproxy {

// Puts pages where a userfaultfd misses them. @param content nullptr: zeros
// -> bytes that are there now; if not all, `failed` is the kernel's reason
inline int64_t Fill(int uffd, uint64_t at, uint64_t bytes, const uint8_t* content, int* failed) {
  for (bool again = false;; again = true) {
    uffdio_zeropage zero = {{at, bytes}, 0, 0};
    uffdio_copy copy = {at, reinterpret_cast<uint64_t>(content), bytes, 0, 0};
    const int status = content == nullptr ? ioctl(uffd, UFFDIO_ZEROPAGE, &zero) : ioctl(uffd, UFFDIO_COPY, &copy);
    *failed = status == 0 ? 0 : errno;
    // Since 6.9 the kernel looks for the mapping between its two looks at whether one changes: of one that is being moved away it says
    // that there is none (mfill_atomic). The next time it says EAGAIN, for as long as nobody has read where it is now.
    if (*failed != ENOENT || again) return content == nullptr ? zero.zeropage : copy.copy;
  }
}

}  // namespace homeproxy
