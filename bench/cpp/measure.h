// Measures contenders in turns and prints what each takes per operation, the naive one first.
//
// Each program is one station of the core. `--quick` only sees that everything works: the figures
// then mean nothing.
//
// Thread safety: none; contenders may use threads of their own.
#pragma once

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace clipper::bench {

struct Contender {
  std::string name;
  std::function<void(std::uint64_t operations)> run;
};

/// The compiler must take `value` for used.
template <typename Value>
void keep(const Value& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

/// Ends the program: a figure of something that went wrong would be worse than none.
inline void expect(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

inline double nanoseconds_of(const Contender& contender, std::uint64_t operations) {
  timespec begin{};
  timespec end{};
  clock_gettime(CLOCK_MONOTONIC, &begin);
  contender.run(operations);
  clock_gettime(CLOCK_MONOTONIC, &end);
  const auto seconds = static_cast<double>(end.tv_sec - begin.tv_sec);
  return seconds * 1e9 + static_cast<double>(end.tv_nsec - begin.tv_nsec);
}

class Bench {
 public:
  Bench(int argc, char** argv) : is_quick_(argc > 1 && std::string_view(argv[1]) == "--quick") {
    std::printf("%-58s %10s %23s %8s\n", "ns for each operation", "median", "quartiles", "naive/");
  }

  /// Every contender runs once a round, each round beginning with another one. The first is the
  /// naive baseline. REQUIRES: operations >= 100.
  void compare(const char* title, std::uint64_t operations,
               const std::vector<Contender>& contenders) const {
    if (is_quick_) operations = std::max<std::uint64_t>(operations / 100, 1);
    std::vector<std::vector<double>> times(contenders.size());
    for (const Contender& contender : contenders) contender.run(operations);  // warm caches
    for (std::size_t round = 0; round < (is_quick_ ? 2U : 41U); ++round) {
      for (std::size_t i = 0; i < contenders.size(); ++i) {
        const std::size_t turn = (round + i) % contenders.size();
        times[turn].push_back(nanoseconds_of(contenders[turn], operations) /
                              static_cast<double>(operations));
      }
    }
    std::printf("%s\n", title);
    for (auto& each : times) std::sort(each.begin(), each.end());
    const double naive = quantile(times[0], 0.5);
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      std::printf("  %-56s %10.1f %10.1f … %10.1f %7.2f\n", contenders[i].name.c_str(),
                  quantile(times[i], 0.5), quantile(times[i], 0.25), quantile(times[i], 0.75),
                  naive / quantile(times[i], 0.5));
    }
    std::fflush(stdout);
  }

 private:
  static double quantile(const std::vector<double>& sorted, double share) {
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
  }

  const bool is_quick_;
};

/// Runs `work(number)` on `count` threads at once.
template <typename Work>
void on_threads(unsigned count, Work&& work) {
  std::atomic<unsigned> ready{0};
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < count; ++number) {
    threads.emplace_back([&, number] {
      ready.fetch_add(1);
      while (ready.load() < count) std::this_thread::yield();
      work(number);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace clipper::bench
