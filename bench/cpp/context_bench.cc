// The table of contexts against a map behind a lock: what a look-up takes, and each context's
// bytes.
#include <malloc.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/random.h"
#include "measure.h"
#include "selection/context_table.h"

namespace {

using namespace clipper;

constexpr std::size_t kWords = 8;
constexpr std::size_t kPlenty = std::size_t{256} << 20;
constexpr std::size_t kLittle = std::size_t{4} << 20;

class EightNumbers final : public Policy {
 public:
  [[nodiscard]] std::size_t state_words(std::uint16_t) const noexcept override { return kWords; }
  [[nodiscard]] std::size_t select(const SelectionInput&, PolicyState,
                                   std::span<Choice> chosen) const noexcept override {
    chosen[0] = {0, 1.0F};
    return 1;
  }
  [[nodiscard]] Combined combine(std::span<const Answer>, PolicyState, const OutputLayout&,
                                 std::byte*) const noexcept override {
    return {true, 0, 1.0F};
  }
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override {
    for (const Observation& seen : observations) {
      state[seen.model].fetch_add(static_cast<double>(seen.loss), std::memory_order_relaxed);
    }
  }
};

const EightNumbers kPolicy;

class LockedMap {
 public:
  void touch(std::uint64_t context) {
    const std::scoped_lock lock(mutex_);
    std::vector<double>& state = states_[context];
    if (state.empty()) state.resize(kWords);
    bench::keep(state[0]);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::vector<double>> states_;
};

/// `contexts` of them, asked for at random.
template <typename Touch>
void at_random(std::uint64_t contexts, std::uint64_t operations, Touch&& touch) {
  Random random(1);
  for (std::uint64_t i = 0; i < operations; ++i) touch(mix_bits(random.below(contexts)));
}

void look_up(const bench::Bench& bench, std::uint64_t contexts) {
  LockedMap map;
  ContextTable table(kPolicy, 4, kPlenty);
  for (std::uint64_t context = 0; context < contexts; ++context) {
    map.touch(mix_bits(context));
    (void)table.pin(mix_bits(context));
  }
  const std::vector<Observation> one{{2, 0.5F, 1.0F}};
  bench.compare(
      ("look up one of " + std::to_string(contexts) + " contexts").c_str(), 200'000,
      {{"std::unordered_map and a lock",
        [&](auto n) { at_random(contexts, n, [&](auto context) { map.touch(context); }); }},
       {"pin and release",
        [&](auto n) {
          at_random(contexts, n, [&](auto context) {
            const ContextPin pin = table.pin(context);
            bench::keep(pin.state()[0]);
          });
        }},
       {"observe", [&](auto n) {
          at_random(contexts, n, [&](auto context) {
            bench::expect(table.observe(context, one) == Observed::kLearned, "it learns");
          });
        }}});
}

void come_and_go(const bench::Bench& bench) {
  constexpr std::uint64_t kContexts = 60'000;
  ContextTable table(kPolicy, 4, {kLittle}, std::make_unique<MemoryContextStore>(kWords, kPlenty));
  LockedMap map;
  const std::vector<Observation> one{{2, 0.5F, 1.0F}};
  for (std::uint64_t context = 0; context < kContexts; ++context) {
    map.touch(mix_bits(context));
    (void)table.observe(mix_bits(context), one);
  }
  bench.compare("observe one of 60000 contexts", 200'000,
                {{"std::unordered_map and a lock, all in memory",
                  [&](auto n) { at_random(kContexts, n, [&](auto c) { map.touch(c); }); }},
                 {"table with room for two thirds, the others packed", [&](auto n) {
                    at_random(kContexts, n, [&](auto context) {
                      bench::expect(table.observe(context, one) == Observed::kLearned, "it learns");
                    });
                  }}});
  const ContextCounts counts = table.counts();
  bench::expect(counts.spilled > 0 && counts.loaded > 0, "contexts come and go");
}

void name_hash(const bench::Bench& bench) {
  const std::string name = "user-0123456789";
  bench.compare("hash a name of 15 bytes", 1'000'000,
                {{"std::hash",
                  [&](auto n) {
                    for (std::uint64_t i = 0; i < n; ++i) {
                      bench::keep(std::hash<std::string_view>{}(name));
                    }
                  }},
                 {"hash_bytes", [&](auto n) {
                    for (std::uint64_t i = 0; i < n; ++i) {
                      bench::keep(hash_bytes(name.data(), name.size(), 1));
                    }
                  }}});
}

template <typename Make>
double bytes_for_each(std::uint64_t contexts, Make&& make) {
  const auto in_use = [] {
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  const auto before = in_use();
  const auto made = make();
  return static_cast<double>(in_use() - before) / static_cast<double>(contexts);
}

void memory(bool is_quick) {
  const std::uint64_t contexts = is_quick ? 10'000 : 1'000'000;
  const double map = bytes_for_each(contexts, [&] {
    auto made = std::make_unique<LockedMap>();
    for (std::uint64_t context = 0; context < contexts; ++context) made->touch(mix_bits(context));
    return made;
  });
  const double table = bytes_for_each(contexts, [&] {
    auto made = std::make_unique<ContextTable>(kPolicy, 4, kPlenty);
    for (std::uint64_t context = 0; context < contexts; ++context) {
      (void)made->pin(mix_bits(context));
    }
    return made;
  });
  std::printf("bytes for each of %llu contexts of %zu numbers, as malloc counts\n",
              static_cast<unsigned long long>(contexts), kWords);
  std::printf("  %-56s %10.1f\n  %-56s %10.1f\n", "std::unordered_map and a lock", map, "table",
              table);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  name_hash(bench);
  look_up(bench, 1000);
  look_up(bench, 500'000);
  come_and_go(bench);
  memory(argc > 1 && std::string_view(argv[1]) == "--quick");
  return 0;
}
