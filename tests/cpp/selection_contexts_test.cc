// Each context learns for itself, within bounds of memory.
#include <algorithm>
#include <memory>
#include <vector>

#include "check.h"
#include "context_scene.h"
#include "selection/majority_vote.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

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
  CHECK_EQ(table.observe(one), Observed::kLearned);
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

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
