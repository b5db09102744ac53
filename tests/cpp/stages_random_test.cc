// Plans drawn at random, run in an order drawn at random, against a few lines that say what a plan
// means.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "random_plans.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kPlans = 400;
#else
constexpr std::uint64_t kPlans = 4000;
#endif
bool run_one(StagesBench& bench, const Drawn& drawn, std::size_t model) {
  Batch* batch = bench.claim(model);
  if (batch == nullptr) return false;
  if (drawn.failures.contains({model, batch->entries[0].offset})) {
    bench.fail(*batch);
  } else {
    bench.complete(model, *batch);
  }
  return true;
}

void run_in_any_order(StagesBench& bench, const Drawn& drawn, Random& random) {
  for (std::size_t missed = 0; missed < 2 * bench.models.size();) {
    missed += run_one(bench, drawn, random.below(bench.models.size())) ? 0 : 1;
  }
  // Chance may have passed some over.
  for (bool has_run = true; has_run;) {
    has_run = false;
    for (std::size_t model = 0; model < bench.models.size(); ++model) {
      has_run = run_one(bench, drawn, model) || has_run;
    }
  }
}

TEST(a_plan_does_what_it_means) {
  std::uint64_t answered = 0;
  std::uint64_t failed = 0;
  std::uint64_t without = 0;
  for (std::uint64_t seed = 1; seed <= kPlans; ++seed) {
    Random random(seed);
    const auto rows = static_cast<std::uint32_t>(random.below(3) == 0 ? 1 : 1 + random.below(9));
    const bool with_failures = random.below(2) == 0;  // of single rows, so in batches of one
    const Drawn drawn = draw(random, rows, with_failures);
    StagesBench bench;
    for (std::size_t place = 0; place < drawn.stages.size(); ++place) {
      bench.deploy([place](const Numbers& columns) { return made_by(place, columns); },
                   drawn.stages[place].inputs.size(), with_failures ? 1 : 4);
    }
    bench.plan(drawn.stages, drawn.answers, drawn.answers_stand, kInputs);
    std::vector<Numbers> columns(kInputs);
    for (Numbers& column : columns) {
      for (std::uint32_t row = 0; row < rows; ++row) {
        column.push_back(static_cast<std::int64_t>(random.below(1000)));
      }
    }
    Query* query = bench.ask(columns);
    run_in_any_order(bench, drawn, random);
    CHECK(query->is_done());
    const auto answer = bench.end(query);
    for (std::uint32_t row = 0; row < rows; ++row) {
      const Expected expected = expected_of(drawn, row, {columns[0][row], columns[1][row]});
      if (answer.causes[row] != expected.cause || answer.outputs[row] != expected.output) {
        std::fprintf(stderr, "seed %llu, row %u of %u\n", static_cast<unsigned long long>(seed),
                     row, rows);
      }
      CHECK_EQ(answer.causes[row], expected.cause);
      CHECK_EQ(answer.outputs[row], expected.output);
      answered += expected.cause == Cause::kNone ? 1 : 0;
      failed += expected.cause == Cause::kModelError ? 1 : 0;
      without += expected.cause == Cause::kLowConfidence ? 1 : 0;
    }
    bench.check_nothing_is_left();
  }
  // Every kind of end is frequent.
  CHECK(answered > kPlans && failed > kPlans / 8 && without > kPlans / 8);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
