// Plans drawn at random, and a few lines that say what a plan means.
//
// Thread safety: none needed.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/random.h"
#include "stages_bench.h"

namespace clipper::testing {

inline constexpr std::size_t kInputs = 2;  // columns of the query

inline std::int64_t made_by(std::size_t stage, const Numbers& columns) {
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
  bool some_inputs_fail = false;                             // whatever row they come in

  [[nodiscard]] bool fails(std::size_t place, std::uint32_t row, const Numbers& columns) const {
    return failures.contains({place, row}) ||
           (some_inputs_fail && made_by(place + 1000, columns) < 8);
  }
};

inline Source draw_source(Random& random, std::uint16_t place) {
  const std::uint64_t from = random.below(place + 1U);
  if (from == place) return query_input(static_cast<std::uint16_t>(random.below(kInputs)));
  return {static_cast<std::uint16_t>(from), 0};
}

inline Condition draw_condition(Random& random, std::uint16_t place) {
  Condition condition = when(static_cast<std::uint16_t>(random.below(place)),
                             static_cast<Condition::Test>(random.below(7)), 50);
  condition.numbers = {1, 4, 50, 51, 52, 53, 54, 55, 56};
  return condition;
}

inline Drawn draw(Random& random, std::uint32_t rows, bool with_failures) {
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
inline Expected expected_of(const Drawn& drawn, std::uint32_t row, const Numbers& input) {
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
    const bool fails = runs && drawn.fails(place, row, columns);
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

}  // namespace clipper::testing
