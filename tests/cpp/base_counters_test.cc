#include <cstdint>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "check.h"

namespace {

using clipper::StripedCounter;

TEST(counts_from_nought) {
  StripedCounter counter;
  CHECK_EQ(counter.read(), 0u);
  counter.add();
  counter.add(41);
  CHECK_EQ(counter.read(), 42u);
}

TEST(threads_lose_no_count) {
  constexpr std::uint64_t kThreads =
      2 * StripedCounter::kStripes + 1;  // so that stripes are shared
  constexpr std::uint64_t kAdds = 5'000;
  StripedCounter counter;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&counter] {
        for (std::uint64_t i = 0; i < kAdds; ++i) counter.add();
      });
    }
    std::uint64_t seen = 0;
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t count = counter.read();
      CHECK(count >= seen);
      seen = count;
    }
  }
  CHECK_EQ(counter.read(), kThreads * kAdds);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
