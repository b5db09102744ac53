#include "base/event_fd.h"

#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/errors.h"

namespace clipper {

EventFd::EventFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) {
    throw Error(ErrorCode::kOutOfMemory, "cannot make an eventfd (" +
                                             std::generic_category().message(errno) +
                                             "): raise the limit of open files, 'ulimit -n'");
  }
}

EventFd::~EventFd() { close(fd_); }

void EventFd::signal() noexcept {
  // Fails only where 2^64 - 2 rings wait, and then it is readable anyway; a signal does not
  // interrupt a write that does not block.
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
}

std::uint64_t EventFd::drain() noexcept {
  std::uint64_t rings = 0;
  iovec place{&rings, sizeof rings};
  // Another process may share the descriptor, and with it whether reads of it block: this one never
  // does. Kernels before 5.8 cannot say that of a single read.
  ssize_t taken = preadv2(fd_, &place, 1, -1, RWF_NOWAIT);
  if (taken < 0 && errno == EOPNOTSUPP) taken = read(fd_, &rings, sizeof rings);
  return taken == sizeof rings ? rings : 0;
}

}  // namespace clipper
