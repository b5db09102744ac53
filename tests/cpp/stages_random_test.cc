// Plans drawn at random, run in an order drawn at random, against a few lines that say what a plan
// means.
#include <cstdint>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;
using Test = Condition::Test;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kPlans = 400;
#else
constexpr std::uint64_t kPlans = 4000;
#endif
constexpr std::size_t kInputs = 2;  // columns of the query

std::int64_t made_by(std::size_t stage, const Numbers& columns) {
  std::uint64_t mixed = stage + 1;
  for (const std::int64_t column : columns) {
    mixed = (mixed ^ static_cast<std::uint64_t>(column)) * 0x9e3779b97f4a7c15ULL;
    mixed ^= mixed >> 29;
  }
  return static_cast<std::int64_t>(mixed % 100);
}

struct Drawn {
  std::vector<StageSpec> stages;
  std::vector<std::uint16_t> answers;
  bool answers_stand = false;
  std::set<std::pair<std::size_t, std::uint32_t>> failures;  // stage and row
};

Source draw_source(Random& random, std::uint16_t place) {
  const std::uint64_t from = random.below(place + 1U);
  if (from == place) return query_input(static_cast<std::uint16_t>(random.below(kInputs)));
  return {static_cast<std::uint16_t>(from), 0};
}

Condition draw_condition(Random& random, std::uint16_t place) {
  Condition condition =
      when(static_cast<std::uint16_t>(random.below(place)), static_cast<Test>(random.below(7)), 50);
  condition.numbers = {1, 4, 50, 51, 52, 53, 54, 55, 56};
  return condition;
}

Drawn draw(Random& random, std::uint32_t rows, bool with_failures) {
  Drawn drawn;
  const auto stages = static_cast<std::uint16_t>(1 + random.below(7));
  for (std::uint16_t place = 0; place < stages; ++place) {
    std::vector<std::vector<Source>> inputs(1 + random.below(3));
    for (auto& sources : inputs) {
      do sources.push_back(draw_source(random, place));
      while (random.below(4) == 0);
    }
    std::vector<Condition> conditions;
    while (place > 0 && random.below(3) == 0) conditions.push_back(draw_condition(random, place));
    drawn.stages.push_back(stage(place, std::move(inputs), std::move(conditions)));
    for (std::uint32_t row = 0; with_failures && row < rows; ++row) {
      if (random.below(12) == 0) drawn.failures.insert({place, row});
    }
  }
  do drawn.answers.push_back(static_cast<std::uint16_t>(random.below(stages)));
  while (random.below(2) == 0);
  drawn.answers_stand = random.below(3) == 0;
  return drawn;
}

struct Expected {
  Cause cause = Cause::kNone;
  std::int64_t output = 0;
};

/// What a plan means for one row.
Expected expected_of(const Drawn& drawn, std::uint32_t row, const Numbers& input) {
  std::vector<std::optional<std::int64_t>> outputs;
  std::vector<bool> failed;
  bool has_failed = false;
  const auto value = [&](const Source& source) {
    return source.stage == Source::kQuery ? std::optional(input[source.column])
                                          : outputs[source.stage];
  };
  for (std::size_t place = 0; place < drawn.stages.size(); ++place) {
    const StageSpec& stage = drawn.stages[place];
    bool runs = true;
    Numbers columns;
    for (const auto& sources : stage.inputs) {
      std::optional<std::int64_t> found;
      for (const Source& source : sources) {
        if (!found) found = value(source);
        runs = runs && (source.stage == Source::kQuery || !failed[source.stage]);
      }
      runs = runs && found.has_value();
      columns.push_back(found.value_or(0));
    }
    for (const Condition& condition : stage.conditions) {
      const auto seen = outputs[condition.stage];
      runs = runs && seen && condition.holds(reinterpret_cast<const std::byte*>(&*seen), 1);
    }
    const bool fails = runs && drawn.failures.contains({place, row});
    failed.push_back(fails);
    has_failed = has_failed || fails;
    outputs.push_back(runs && !fails ? std::optional(made_by(place, columns)) : std::nullopt);
  }
  if (has_failed && !drawn.answers_stand) return {Cause::kModelError};
  for (const std::uint16_t answer : drawn.answers) {
    if (outputs[answer]) return {Cause::kNone, *outputs[answer]};
  }
  return {has_failed ? Cause::kModelError : Cause::kLowConfidence};
}

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
