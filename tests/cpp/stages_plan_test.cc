// What conditions read off outputs, and which plans make sense.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;
using Test = Condition::Test;

template <typename Number>
long double read(DTypeCode code, const std::vector<Number>& numbers,
                 std::int64_t element = Reading::kLargest) {
  Reading reading;
  reading.element = element;
  reading.tensor.dtype = {code, 8 * sizeof(Number)};
  reading.tensor.shape = {static_cast<std::int64_t>(numbers.size())};
  reading.check();
  return reading.read(reinterpret_cast<const std::byte*>(numbers.data()), numbers.size());
}

template <typename Action>
bool is_refused(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code() == ErrorCode::kInvalidArgument;
  }
  return false;
}

TEST(a_reading_is_exact_for_every_kind_of_number) {
  CHECK_EQ(read<std::int8_t>(DTypeCode::kInt, {-3, -1, -2}), -1.0L);
  CHECK_EQ(read<std::int64_t>(DTypeCode::kInt, {std::numeric_limits<std::int64_t>::max() - 1}),
           static_cast<long double>(std::numeric_limits<std::int64_t>::max() - 1));
  CHECK_EQ(read<std::uint64_t>(DTypeCode::kUInt, {1, std::numeric_limits<std::uint64_t>::max()}),
           static_cast<long double>(std::numeric_limits<std::uint64_t>::max()));
  CHECK_EQ(read<std::uint8_t>(DTypeCode::kBool, {0, 1, 0}), 1.0L);
  CHECK_EQ(read<float>(DTypeCode::kFloat, {0.25F, 0.5F, 0.125F}), 0.5L);
  CHECK_EQ(read<double>(DTypeCode::kFloat, {0.25, 0.5, 0.125}, 2), 0.125L);
}

TEST(a_reading_knows_short_floats) {
  CHECK_EQ(read<std::uint16_t>(DTypeCode::kFloat, {0x3c00}), 1.0L);
  CHECK_EQ(read<std::uint16_t>(DTypeCode::kFloat, {0xc000}), -2.0L);
  CHECK_EQ(read<std::uint16_t>(DTypeCode::kFloat, {0x7bff}), 65504.0L);
  CHECK_EQ(read<std::uint16_t>(DTypeCode::kFloat, {0x0001}), std::ldexp(1.0L, -24));
  CHECK(std::isinf(read<std::uint16_t>(DTypeCode::kFloat, {0x7c00})));
  CHECK(std::isnan(read<std::uint16_t>(DTypeCode::kFloat, {0x7e00})));
  CHECK_EQ(read<std::uint16_t>(DTypeCode::kBfloat, {0x3f40}), 0.75L);
}

TEST(what_is_not_a_number_passes_no_test_but_that_of_a_cascade) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(read<float>(DTypeCode::kFloat, {nan, 1.0F})));
  CHECK(std::isnan(read<float>(DTypeCode::kFloat, {1.0F, nan, 2.0F})));
  CHECK(std::isnan(read<float>(DTypeCode::kFloat, {})));
  Condition condition;
  condition.reading.tensor = {{DTypeCode::kFloat, 32}, {}, false};
  const auto* data = reinterpret_cast<const std::byte*>(&nan);
  for (const Test test : {Test::kLess, Test::kAtMost, Test::kMore, Test::kAtLeast}) {
    condition.test = test;
    CHECK(!condition.holds(data, 1));
  }
  condition.test = Test::kNotAtLeast;
  CHECK(condition.holds(data, 1));
}

TEST(labels_are_compared_as_numbers_or_as_text) {
  Condition condition = when(0, Test::kAmong, 0);
  condition.numbers = {2, 9'007'199'254'740'993};
  const std::int64_t label = 9'007'199'254'740'993;  // no double is
  CHECK(condition.holds(reinterpret_cast<const std::byte*>(&label), 1));
  const std::int64_t other = 9'007'199'254'740'992;
  CHECK(!condition.holds(reinterpret_cast<const std::byte*>(&other), 1));
  condition.test = Test::kNotAmong;
  CHECK(condition.holds(reinterpret_cast<const std::byte*>(&other), 1));
  Condition text;
  text.reading.tensor = {{DTypeCode::kUInt, 8}, {}, true};
  text.test = Test::kAmong;
  text.texts = {"de", ""};
  text.check();
  CHECK(text.holds(reinterpret_cast<const std::byte*>("de"), 2));
  CHECK(!text.holds(reinterpret_cast<const std::byte*>("den"), 3));
  CHECK(text.holds(nullptr, 0));
}

TEST(conditions_that_could_never_be_decided_are_refused) {
  Condition condition = when(0, Test::kAtLeast, std::numeric_limits<double>::infinity());
  CHECK(is_refused([&] { condition.check(); }));
  condition = when(0, Test::kAtLeast, 1);
  condition.reading.element = 1;
  CHECK(is_refused([&] { condition.check(); }));
  condition = when(0, Test::kAtLeast, 1);
  condition.reading.tensor.dtype = {DTypeCode::kComplex, 64};
  CHECK(is_refused([&] { condition.check(); }));
  condition = when(0, Test::kAmong, 1);
  CHECK(is_refused([&] { condition.check(); }));
}

PlanSpec chain() {
  PlanSpec plan;
  plan.input = numbers();
  plan.stages = {stage(0, {{query_input()}}), stage(1, {{{0, 0}}})};
  plan.answers = {1};
  return plan;
}

TEST(plans_that_lead_nowhere_are_refused) {
  CHECK(!is_refused([] { Plan plan(chain()); }));
  PlanSpec plan = chain();
  plan.stages[0].inputs = {{{1, 0}}};  // the later stage: a cycle
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.stages[1].inputs = {{{1, 0}}};
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.stages[1].inputs = {{{0, 1}}};  // no such output
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.stages[1].inputs = {{}};
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.stages[1].input = RowSpec({DTypeCode::kFloat, 64}, {});  // takes another type
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.answers = {};
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.answers = {2};
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.stages[0].output = RowSpec({DTypeCode::kInt, 64}, {2});
  plan.stages[1].input = plan.stages[0].output;
  plan.answers = {1, 0};  // which differ
  CHECK(is_refused([&] { Plan made(plan); }));
  plan = chain();
  plan.stages.clear();
  CHECK(is_refused([&] { Plan made(plan); }));
}

TEST(a_plan_keeps_only_what_is_needed_later) {
  Plan straight(chain());
  CHECK(!straight.stages()[0].keeps_output);
  CHECK(straight.stages()[1].keeps_output);
  CHECK(!straight.keeps_input());
  PlanSpec spec = chain();
  spec.stages[1].inputs = {{query_input()}};
  spec.stages[1].conditions = {when(0, Test::kMore, 0)};
  Plan cascade(spec);
  CHECK(!cascade.keeps_input());  // it lies where the first stage's batch was read
  CHECK_EQ(cascade.stages()[1].same_as[0], 0u);
  spec = chain();
  spec.stages[1] = stage(1, {{{0, 0}}, {query_input()}});
  spec.stages.push_back(stage(2, {{{1, 0}}, {query_input()}}));
  spec.answers = {2};
  Plan later(spec);
  CHECK(!later.keeps_input());  // handed on from block to block
  spec.stages[2] = stage(2, {{{1, 0}}, {{0, 0}}, {query_input()}});
  Plan join(spec);
  CHECK(join.keeps_input());
  CHECK(join.stages()[0].keeps_output);
  CHECK(join.stages()[1].certain_successors.size() == 1);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
