// Contexts whose states lie elsewhere: waited for, saved, and changed by many threads meanwhile.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "context_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

TEST(a_context_that_loads_goes_by_the_own_state_and_learns_what_it_missed) {
  Durable durable(100);
  durable.kept[7] = {10, 1, 0, 0, 0, 0, 0, 0};
  CHECK_EQ(durable.table.pin(7).state().data(), durable.table.own().data());
  CHECK_EQ(tell(durable.table, 7), Observed::kNoted);
  const std::array<Observation, 2> both{{{1, 0.25F, 1.0F}, {2, 0.75F, 1.0F}}};
  CHECK_EQ(durable.table.observe(7, both), Observed::kNoted);
  CHECK_EQ(durable.table.counts().noted, 3u);
  CHECK_EQ(durable.table.counts().waiting, 1u);
  durable.drain();
  CHECK_EQ(tell(durable.table, 7), Observed::kLearned);
  const ContextPin pin = durable.table.pin(7);
  CHECK_EQ(pin.state()[0].load(), 12.0);
  CHECK_EQ(pin.state()[3].load(), 0.25);
  CHECK_EQ(pin.state()[5].load(), 0.75);
  CHECK_EQ(durable.table.counts().noted, 0u);
  CHECK_EQ(durable.table.counts().loaded, 1u);
  CHECK_EQ(learned(durable.table.own()), 0.0);
}

TEST(a_context_that_the_store_does_not_know_begins_when_it_says_so) {
  Durable durable(100);
  CHECK_EQ(tell(durable.table, 7), Observed::kNoted);
  const std::array<Observation, 1> one{{{0, 1.0F, 1.0F}}};
  CHECK_EQ(durable.table.observe(one), Observed::kLearned);
  durable.drain();
  CHECK_EQ(learned(durable.table.pin(7).state()), 2.0);
  CHECK_EQ(durable.table.counts().begun, 1u);
}

TEST(the_doorbell_rings_when_there_is_something_to_take) {
  Durable durable(20);
  CHECK_EQ(durable.store->doorbell().drain(), 0u);
  (void)tell(durable.table, 1);
  CHECK(durable.store->doorbell().drain() > 0);
  durable.load();
  for (std::uint64_t context = 2; context < 100; ++context) {
    (void)tell(durable.table, context);
    durable.load();
  }
  CHECK(durable.store->doorbell().drain() > 0);
  CHECK(durable.store->held() > 0);
}

TEST(what_waits_to_be_written_is_given_back_without_a_detour) {
  Durable durable(20);
  for (std::uint64_t context = 0; context < 200; ++context) {
    (void)tell(durable.table, context);
    durable.load();
  }
  CHECK(durable.store->held() >= 150);
  const std::uint64_t loaded = durable.table.counts().loaded;
  CHECK_EQ(learned(durable.table.pin(0).state()), 1.0);
  CHECK_EQ(durable.table.counts().loaded, loaded + 1);
  durable.save();
  // Evicted again without having learned anything: it must be saved nevertheless.
  for (std::uint64_t context = 1000; context < 1100; ++context) {
    (void)tell(durable.table, context);
    durable.load();
  }
  durable.save();
  CHECK_EQ(durable.kept.at(0)[0], 1.0);
}

TEST(a_queue_that_nobody_drains_stops_evictions_and_loses_nothing) {
  Durable durable(30, 10);
  double told = 0;
  for (std::uint64_t context = 0; context < 300; ++context) {
    if (tell(durable.table, context) != Observed::kRefused) ++told;
    durable.load();  // reads, but does not write
  }
  CHECK(durable.store->held() <= 10);
  CHECK(durable.table.counts().waiting > 0);
  CHECK_EQ(told + static_cast<double>(durable.table.counts().refused), 300.0);
  double kept = 0;
  for (int round = 0; round < 1000 && durable.table.counts().waiting > 0; ++round) durable.drain();
  CHECK_EQ(durable.table.counts().waiting, 0u);
  durable.save();
  durable.save_changed();
  for (const auto& [context, state] : durable.kept) kept += state[0];
  CHECK_EQ(kept, told);
}

TEST(what_is_noted_down_is_bounded_and_what_is_refused_is_counted) {
  Durable durable(100);
  std::uint64_t noted = 0;
  std::uint64_t refused = 0;
  for (int i = 0; i < 10'000; ++i) {
    const Observed observed = tell(durable.table, 7);
    CHECK(observed != Observed::kLearned);
    ++(observed == Observed::kNoted ? noted : refused);
  }
  CHECK(noted > 10);
  CHECK(refused > 1000);
  CHECK_EQ(durable.table.counts().refused, refused);
  durable.drain();
  CHECK_EQ(learned(durable.table.pin(7).state()), static_cast<double>(noted));
  CHECK_EQ(tell(durable.table, 8), Observed::kNoted);  // the room is there again
}

TEST(a_checkpoint_takes_what_changed_since_the_last) {
  Durable durable(100);
  for (std::uint64_t context = 0; context < 10; ++context) {
    CHECK_EQ(tell(durable.table, context), Observed::kNoted);
    durable.drain();
  }
  durable.save_changed();
  CHECK_EQ(durable.kept.size(), 10u);
  durable.kept.clear();
  durable.save_changed();
  CHECK_EQ(durable.kept.size(), 0u);
  (void)tell(durable.table, 3);
  durable.save_changed();
  CHECK_EQ(durable.kept.size(), 1u);
  CHECK_EQ(durable.kept.at(3)[0], 2.0);
}

TEST(an_answer_that_nobody_waits_for_changes_nothing) {
  Durable durable(100);
  (void)tell(durable.table, 7);
  durable.drain();
  const std::vector<double> stale(kWords, 99.0);
  CHECK(durable.table.put_loaded(7, stale));
  CHECK(durable.table.put_loaded(8, stale));
  CHECK_EQ(learned(durable.table.pin(7).state()), 1.0);
  CHECK_EQ(durable.table.counts().in_memory, 1u);
}

// ---- threads ------------------------------------------------------------------------------------

constexpr unsigned kThreads = 8;

template <typename Work>
void on_threads(Work&& work) {
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < kThreads; ++number) threads.emplace_back(work, number);
  for (std::thread& thread : threads) thread.join();
}

/// Queries hold their state while they learn, as the engine's do. Returns what was not refused.
std::uint64_t ask_and_tell(ContextTable& table, unsigned seed, std::uint64_t contexts, int times) {
  Random random(seed);
  std::uint64_t told = 0;
  for (int i = 0; i < times; ++i) {
    const std::uint64_t context = random.below(contexts);
    const ContextPin pin = table.pin(context);
    if (tell(table, context, static_cast<std::uint16_t>(random.below(kModels))) ==
        Observed::kRefused) {
      std::this_thread::yield();  // to the drainer
    } else {
      ++told;
    }
  }
  return told;
}

TEST(eight_threads_lose_no_update_while_contexts_come_and_go) {
  ContextTable table(kPolicy, kModels, {32'768, 4},
                     std::make_unique<MemoryContextStore>(kWords, std::size_t{64} << 20));
  constexpr std::uint64_t kContexts = 2000;
  std::atomic<std::uint64_t> told{0};
  on_threads([&](unsigned number) { told += ask_and_tell(table, number, kContexts, 20'000); });
  CHECK_EQ(told.load(), kThreads * 20'000u);
  CHECK(table.counts().spilled > 1000);
  double sum = 0;
  for (std::uint64_t context = 0; context < kContexts; ++context) {
    sum += learned(table.pin(context).state());
  }
  CHECK_EQ(sum, static_cast<double>(told));
}

TEST(eight_threads_lose_no_update_while_another_drains) {
  Durable durable(2000, 50);
  constexpr std::uint64_t kContexts = 6000;
  std::atomic<std::uint64_t> told{0};
  std::atomic<bool> done{false};
  std::thread drainer([&] {
    while (!done.load()) {
      durable.drain();
      durable.save_changed();
    }
  });
  on_threads(
      [&](unsigned number) { told += ask_and_tell(durable.table, number, kContexts, 20'000); });
  done = true;
  drainer.join();
  for (int round = 0; round < 10'000 && durable.table.counts().waiting > 0; ++round) {
    durable.drain();
  }
  durable.save();
  durable.save_changed();
  const ContextCounts counts = durable.table.counts();
  CHECK_EQ(counts.waiting, 0u);
  CHECK_EQ(counts.forgotten, 0u);
  CHECK_EQ(told + counts.refused, kThreads * 20'000u);
  CHECK(told > 1000u);
  double sum = 0;
  for (const auto& [context, state] : durable.kept) {
    for (std::size_t i = 0; i < kWords; i += 2) sum += state[i];
  }
  CHECK_EQ(sum, static_cast<double>(told));
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
