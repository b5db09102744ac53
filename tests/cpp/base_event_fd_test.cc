#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>

#include <thread>

#include "base/errors.h"
#include "base/event_fd.h"
#include "check.h"

namespace {

using clipper::EventFd;

bool is_readable(const EventFd& bell, int timeout_ms) {
  pollfd watched{.fd = bell.fd(), .events = POLLIN, .revents = 0};
  return poll(&watched, 1, timeout_ms) == 1;
}

TEST(is_readable_from_signal_to_drain) {
  EventFd bell;
  CHECK(!is_readable(bell, 0));
  CHECK_EQ(bell.drain(), 0u);
  bell.signal();
  bell.signal();
  CHECK(is_readable(bell, 0));
  CHECK_EQ(bell.drain(), 2u);
  CHECK(!is_readable(bell, 0));
}

TEST(wakes_a_thread_that_polls) {
  EventFd bell;
  std::jthread ringer([&bell] { bell.signal(); });
  CHECK(is_readable(bell, -1));
}

TEST(closes_its_descriptor) {
  int fd;
  {
    const EventFd bell;
    fd = bell.fd();
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  }
  CHECK_EQ(fcntl(fd, F_GETFD), -1);
}

// Not with UBSan, which needs descriptors of its own to look at the exception.
#ifndef __SANITIZE_ADDRESS__
TEST(says_so_when_there_is_no_descriptor_left) {
  rlimit limit{};
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = limit.rlim_max};
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  CHECK_THROWS(EventFd(), clipper::Error);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}
#endif

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
