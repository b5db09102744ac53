// Feedback that a context has no memory for is refused, and said to be.
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "check.h"
#include "feedback_bench.h"

namespace {

using namespace clipper;
using clipper::testing::FeedbackBench;

constexpr auto kApplied = FeedbackStatus::kApplied;
constexpr auto kDuplicate = FeedbackStatus::kDuplicate;
constexpr auto kRefused = FeedbackStatus::kRefused;

TEST(feedback_that_its_context_has_no_memory_for_is_refused_and_may_be_said_again) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  // Its store answers later, so that what is said meanwhile has to be noted down.
  auto store = std::make_unique<DrainedContextStore>(4, 8);
  DrainedContextStore& drained = *store;
  bench.application->contexts = std::make_unique<ContextTable>(
      *bench.application->policy, std::uint16_t{2}, ContextOptions{ContextOptions::kLeastBytes, 1},
      std::move(store));
  Asking asking;
  asking.context = 7;
  asking.has_context = true;
  const std::int64_t number = 10;
  std::uint64_t applied = 0;
  std::uint64_t refused = 0;
  std::uint64_t last = 0;
  while (refused < 100 && applied < 100'000) {
    last = bench.predict(std::span(&number, 1), asking);
    const FeedbackStatus status = bench.label(last, 11);
    CHECK(status == kApplied || status == kRefused);
    ++(status == kApplied ? applied : refused);
  }
  CHECK(applied > 10 && refused == 100);
  CHECK_EQ(bench.counted(kApplied), applied);
  CHECK_EQ(bench.counted(kRefused), refused);
  CHECK_EQ(bench.label(last, 11), kRefused);  // not a duplicate: nothing was learned of it
  CHECK_EQ(bench.application->contexts->counts().refused, refused + 1);
  // Nor does any statistic say that it was.
  CHECK_EQ(bench.application->feedback.models[0].judged.load(), applied);
  std::vector<std::uint64_t> wanted;
  drained.take_wanted(wanted, 10);
  CHECK(wanted == std::vector<std::uint64_t>{7});
  CHECK(bench.application->contexts->put_loaded(7, {}));
  CHECK_EQ(bench.label(last, 11), kApplied);
  CHECK_EQ(bench.label(last, 11), kDuplicate);
  const ContextPin learned = bench.application->contexts->pin(7);
  CHECK_EQ(learned.state()[0].load(), static_cast<double>(applied + 1));
}

TEST(feedback_for_everyone_is_refused_where_there_is_no_memory_for_it) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  auto store = std::make_unique<DrainedContextStore>(4, 8);
  bench.application->contexts = std::make_unique<ContextTable>(
      *bench.application->policy, std::uint16_t{2}, ContextOptions{ContextOptions::kLeastBytes, 1},
      std::move(store));
  Asking asking;
  asking.everyone = true;
  asking.context = 7;
  asking.has_context = true;
  const std::int64_t number = 10;
  const ColumnRows label{reinterpret_cast<const std::byte*>(&number)};
  Said said;
  said.labels.rows = &label;
  std::uint64_t applied = 0;
  FeedbackStatus status = kApplied;
  for (; status == kApplied && applied < 100'000; ++applied) {
    Query* query = bench.submit(std::span(&number, 1), asking);
    for (std::uint16_t k = 0; k < 2; ++k) bench.run(k);
    bench.engine.collect_answers(*query);
    Feedback::take_answers(*bench.application, *query, said, &status);
    bench.engine.release(*query);
  }
  CHECK_EQ(status, kRefused);
  CHECK_EQ(bench.counted(kApplied), applied - 1);
  CHECK_EQ(bench.counted(kRefused), 1u);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
