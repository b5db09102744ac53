#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "counting_policy.h"
#include "selection/context_slots.h"
#include "selection/context_store.h"
#include "selection/context_table.h"
#include "selection/majority_vote.h"

namespace {

using namespace clipper;
using clipper::testing::CountingPolicy;

constexpr std::uint16_t kModels = 4;
constexpr std::size_t kWords = 2 * kModels;
constexpr std::size_t kEach = 16 + kWords * 8 + 11;  // bytes: a slot, and its share of the index

const CountingPolicy kPolicy;

double learned(PolicyState state) {
  double sum = 0;
  for (std::size_t i = 0; i < state.size(); i += 2) sum += state[i].load();
  return sum;
}

/// Bytes that hold about so many contexts, in one shard.
ContextOptions about(std::size_t contexts) { return {contexts * kEach + 512, 1}; }

ContextTable in_memory(std::size_t contexts) {
  return {kPolicy, kModels, about(contexts),
          std::make_unique<MemoryContextStore>(kWords, std::size_t{64} << 20)};
}

Observed tell(ContextTable& table, std::uint64_t context, std::uint16_t model = 0) {
  const std::array<Observation, 1> one{{{model, 0.5F, 1.0F}}};
  return table.observe(context, one);
}

// ---- slots --------------------------------------------------------------------------------------

TEST(slots_agree_with_a_map_through_any_changes) {
  for (const std::uint32_t most : {1U, 7U, 8U, 100U, 1000U}) {
    ContextSlots slots(1, most);
    std::map<std::uint64_t, double> reference;
    Random random(most);
    for (int step = 0; step < 40'000; ++step) {
      const std::uint64_t context = random.below(most + most / 2 + 2);
      ContextSlot* found = slots.find(context);
      CHECK_EQ(found != nullptr, reference.contains(context));
      if (found == nullptr) {
        ContextSlot* added = slots.add(context);
        CHECK_EQ(added == nullptr, reference.size() == most);
        if (added != nullptr) {
          slots.state(*added)[0] = step;
          reference[context] = step;
        }
      } else {
        CHECK_EQ(slots.state(*found)[0].load(), reference[context]);
        if (random.below(2) == 0) {
          slots.remove(context);
          reference.erase(context);
        }
      }
      CHECK_EQ(slots.size(), reference.size());
    }
    CHECK(slots.made() <= most);
    CHECK(slots.bytes() <= most * 24 + (most + most / 3 + 1) * 8);
  }
}

TEST(slots_stay_where_they_are_while_others_come) {
  ContextSlots slots(2, 5000);
  ContextSlot* first = slots.add(0);
  for (std::uint64_t context = 1; context < 5000; ++context) CHECK(slots.add(context) != nullptr);
  CHECK_EQ(slots.find(0), first);
  CHECK(slots.add(5000) == nullptr);
}

TEST(as_many_fit_as_is_said) {
  for (const std::size_t bytes : {200UL, 1000UL, 65'536UL, 1'000'000UL}) {
    const std::uint32_t most = ContextSlots::fit(kWords, bytes);
    ContextSlots slots(kWords, most);
    for (std::uint64_t context = 0; context < most; ++context) {
      CHECK(slots.add(context) != nullptr);
    }
    CHECK(slots.bytes() <= bytes);
    CHECK(slots.bytes() + 2 * kEach > bytes);
  }
  CHECK_EQ(ContextSlots::fit(kWords, 0), 0u);
}

// ---- the table ----------------------------------------------------------------------------------

TEST(contexts_learn_each_for_themselves) {
  ContextTable table = in_memory(100);
  for (int i = 0; i < 3; ++i) CHECK_EQ(tell(table, 1), Observed::kLearned);
  CHECK_EQ(tell(table, 2, 3), Observed::kLearned);
  CHECK_EQ(learned(table.pin(1).state()), 3.0);
  CHECK_EQ(learned(table.pin(2).state()), 1.0);
  CHECK_EQ(table.pin(2).state()[7].load(), 0.5);
  CHECK_EQ(learned(table.own()), 0.0);
}

TEST(a_new_context_begins_where_the_application_is_now) {
  ContextTable table = in_memory(100);
  CHECK_EQ(learned(table.pin(1).state()), 0.0);
  const std::array<Observation, 1> one{{{0, 1.0F, 1.0F}}};
  table.observe(one);
  CHECK_EQ(learned(table.pin(2).state()), 1.0);
  CHECK_EQ(learned(table.pin(1).state()), 0.0);
  CHECK_EQ(tell(table, 2), Observed::kLearned);
  CHECK_EQ(learned(table.own()), 1.0);
}

TEST(a_policy_that_learns_nothing_keeps_nothing) {
  const MajorityVote vote;
  ContextTable table(vote, kModels);
  for (std::uint64_t context = 0; context < 1000; ++context) {
    CHECK(table.pin(context).state().empty());
    CHECK_EQ(tell(table, context), Observed::kLearned);
  }
  CHECK_EQ(table.shards(), 0u);
  CHECK_EQ(table.counts().bytes, 0u);
}

TEST(what_is_evicted_comes_back_as_it_was) {
  ContextTable table = in_memory(50);
  for (std::uint64_t context = 0; context < 1000; ++context) {
    for (std::uint64_t i = 0; i <= context % 5; ++i)
      CHECK_EQ(tell(table, context), Observed::kLearned);
  }
  CHECK(table.counts().spilled >= 900);
  for (std::uint64_t context = 0; context < 1000; ++context) {
    CHECK_EQ(learned(table.pin(context).state()), static_cast<double>(context % 5 + 1));
  }
  const ContextCounts counts = table.counts();
  CHECK_EQ(counts.begun, 1000u);
  CHECK_EQ(counts.in_memory + counts.stored, 1000u);
  CHECK_EQ(counts.served_by_own, 0u);
  CHECK_EQ(counts.forgotten, 0u);
}

TEST(at_its_bound_it_stays_there) {
  constexpr std::size_t kBytes = std::size_t{1} << 20;
  ContextTable table(kPolicy, kModels, {kBytes},
                     std::make_unique<MemoryContextStore>(kWords, std::size_t{64} << 20));
  std::size_t full = 0;
  for (std::uint64_t context = 0; context < 200'000; ++context) {
    CHECK_EQ(tell(table, context), Observed::kLearned);
    if (context == 30'000) full = table.counts().bytes;
  }
  CHECK(table.counts().bytes <= kBytes);
  CHECK(table.counts().bytes > kBytes * 9 / 10);
  CHECK_EQ(table.counts().bytes, full);
}

TEST(a_million_contexts_of_four_arms_take_less_than_200_megabytes) {
  constexpr std::size_t kBytes = 200'000'000;
  ContextTable table(kPolicy, kModels, kBytes);
  for (std::uint64_t context = 0; context < 1'000'000; ++context) {
    CHECK_EQ(tell(table, context), Observed::kLearned);
  }
  const ContextCounts counts = table.counts();
  CHECK_EQ(counts.in_memory + counts.stored, 1'000'000u);
  CHECK_EQ(counts.forgotten, 0u);
  CHECK(counts.bytes + table.store()->bytes() <= kBytes);
  std::fprintf(stderr, "  %.1f bytes for each\n",
               static_cast<double>(counts.bytes + table.store()->bytes()) / 1e6);
}

TEST(beyond_all_memory_those_are_forgotten_that_nobody_asked_for) {
  ContextTable table(kPolicy, kModels, std::size_t{64} << 10);
  constexpr std::uint64_t kRegulars = 20;
  for (std::uint64_t context = 0; context < 20'000; ++context) {
    CHECK_EQ(tell(table, context), Observed::kLearned);
    CHECK_EQ(tell(table, context % kRegulars), Observed::kLearned);
  }
  const ContextCounts counts = table.counts();
  CHECK(counts.bytes + table.store()->bytes() <= (std::size_t{64} << 10) + 4096);
  CHECK_EQ(counts.in_memory + counts.stored + counts.forgotten, 20'000u);
  for (std::uint64_t context = 0; context < kRegulars; ++context) {
    CHECK_EQ(learned(table.pin(context).state()), 1001.0);
  }
}

TEST(a_scan_of_contexts_that_teach_nothing_leaves_nothing_behind) {
  ContextTable table = in_memory(50);
  for (std::uint64_t context = 0; context < 10'000; ++context) {
    CHECK(!table.pin(context).state().empty());
  }
  CHECK_EQ(table.counts().stored, 0u);
  CHECK_EQ(table.counts().spilled, 0u);
}

TEST(what_a_query_holds_is_not_evicted) {
  ContextTable table = in_memory(50);
  ContextPin held = table.pin(7);
  const std::atomic<double>* where = held.state().data();
  for (std::uint64_t context = 100; context < 1000; ++context) {
    CHECK_EQ(tell(table, context), Observed::kLearned);
  }
  CHECK_EQ(tell(table, 7), Observed::kLearned);
  CHECK_EQ(table.pin(7).state().data(), where);
  CHECK_EQ(learned(held.state()), 1.0);
  held.release();
  CHECK(held.state().empty());
  for (std::uint64_t context = 1000; context < 2000; ++context) (void)tell(table, context);
  CHECK_EQ(learned(table.pin(7).state()), 1.0);
}

TEST(where_everything_is_held_queries_go_by_the_own_state_and_feedback_is_not_lost) {
  ContextTable table = in_memory(20);
  std::vector<ContextPin> held;
  std::uint64_t context = 0;
  while (table.counts().served_by_own == 0) held.push_back(table.pin(context++));
  CHECK_EQ(held.back().state().data(), table.own().data());
  for (int i = 0; i < 5; ++i) CHECK_EQ(tell(table, 5000), Observed::kLearned);
  held.clear();
  CHECK_EQ(learned(table.pin(5000).state()), 5.0);
}

TEST(a_table_for_not_one_context_is_refused) {
  CHECK_THROWS(
      ContextTable(kPolicy, kModels, {100, 1}, std::make_unique<MemoryContextStore>(kWords, 1000)),
      Error);
}

// ---- a store that answers later -----------------------------------------------------------------

/// What a drainer keeps, and how it goes about it.
struct Durable {
  explicit Durable(std::size_t contexts, std::uint32_t max_spilled = 1000)
      : table(kPolicy, kModels, about(contexts),
              std::make_unique<DrainedContextStore>(kWords, max_spilled)),
        store(static_cast<DrainedContextStore*>(table.store())) {}

  void save() {
    ContextBatch batch;
    store->take_spilled(batch, 1'000'000);
    keep(batch);
  }
  void save_changed() {
    ContextBatch batch;
    for (std::size_t shard = 0; shard < table.shards(); ++shard) table.take_changed(shard, batch);
    keep(batch);
  }
  void load() {
    store->take_wanted(wanted, 1'000'000);
    std::vector<std::uint64_t> later;
    for (const std::uint64_t context : wanted) {
      const auto found = kept.find(context);
      const std::span<const double> state =
          found == kept.end() ? std::span<const double>() : found->second;
      if (!table.put_loaded(context, state)) later.push_back(context);
    }
    wanted = later;
  }
  void drain() {
    (void)store->doorbell().drain();
    save();
    load();
  }

  ContextTable table;
  DrainedContextStore* store;
  std::unordered_map<std::uint64_t, std::vector<double>> kept;
  std::vector<std::uint64_t> wanted;

 private:
  void keep(const ContextBatch& batch) {
    for (std::size_t i = 0; i < batch.contexts.size(); ++i) {
      const auto* state = batch.numbers.data() + i * kWords;
      kept[batch.contexts[i]].assign(state, state + kWords);
    }
  }
};

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
  durable.table.observe(one);
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
