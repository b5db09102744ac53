// A doorbell that poll() and event loops can wait for: an eventfd, owned.
//
// Thread safety: signal() and drain() from any thread, while the object lives.
#pragma once

#include <cstdint>

namespace clipper {

class EventFd {
 public:
  /// Throws kOutOfMemory if the process has no file descriptor left.
  EventFd();
  ~EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  /// Readable from a signal() to the next drain(). Does not block; closed on exec.
  [[nodiscard]] int fd() const noexcept { return fd_; }

  /// Rings. Many rings before a drain() are one.
  void signal() noexcept;

  /// Makes it silent, and says how many rings that took back; 0: it was silent.
  std::uint64_t drain() noexcept;

 private:
  int fd_;
};

}  // namespace clipper
