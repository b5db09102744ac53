// Feedback finds the very prediction, once a row, for as long as it is kept, whoever else asks.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "feedback_bench.h"

namespace {

using namespace clipper;
using clipper::testing::FeedbackBench;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 1'000;
#else
constexpr int kRounds = 10'000;
#endif
constexpr int kThreads = 8;

constexpr auto kApplied = FeedbackStatus::kApplied;
constexpr auto kDuplicate = FeedbackStatus::kDuplicate;
constexpr auto kExpired = FeedbackStatus::kExpired;
constexpr auto kUnknown = FeedbackStatus::kUnknown;
constexpr auto kForeign = FeedbackStatus::kForeign;
constexpr auto kUnattributed = FeedbackStatus::kUnattributed;

TEST(a_label_judges_every_model_that_answered_and_only_once) {
  ManualClock clock;
  FeedbackBench bench(clock, 4);
  const std::uint64_t ticket = bench.predict(10);
  CHECK_EQ(bench.label(ticket, 11), kApplied);
  for (std::uint16_t k = 0; k < 4; ++k) {
    CHECK_EQ(bench.times(k), 1.0);
    CHECK_EQ(bench.losses(k), k < 2 ? 1.0 : 0.0);
    CHECK_EQ(bench.application->feedback.models[k].judged.load(), 1u);
  }
  CHECK_EQ(bench.label(ticket, 11), kDuplicate);
  CHECK_EQ(bench.loss(ticket, 0.5F), kDuplicate);
  CHECK_EQ(bench.times(0), 1.0);
  CHECK_EQ(bench.counted(kApplied), 1u);
  CHECK_EQ(bench.counted(kDuplicate), 2u);
}

TEST(a_loss_is_that_of_the_models_whose_output_was_the_answer) {
  ManualClock clock;
  FeedbackBench bench(clock, 4);
  CHECK_EQ(bench.loss(bench.predict(10), 0.25F), kApplied);
  for (std::uint16_t k = 0; k < 4; ++k) {
    CHECK_EQ(bench.times(k), k < 2 ? 1.0 : 0.0);
    CHECK_EQ(bench.losses(k), k < 2 ? 0.25 : 0.0);
  }
}

TEST(the_propensity_of_the_choice_comes_back_with_the_feedback) {
  ManualClock clock;
  FeedbackBench bench(clock, 4, {}, true);
  for (std::int64_t i = 0; i < 4; ++i) CHECK_EQ(bench.loss(bench.predict(i), 0.5F), kApplied);
  for (std::uint16_t k = 0; k < 4; ++k) {
    CHECK_EQ(bench.times(k), 1.0);
    CHECK_EQ(bench.losses(k), 2.0);  // 0.5 over 1/4
  }
}

TEST(rows_of_one_query_are_judged_one_by_one) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  const std::array<std::int64_t, 5> rows{0, 1, 2, 3, 4};
  const std::uint64_t ticket = bench.predict(rows);
  CHECK_EQ(bench.label(ticket, 3, 3), kApplied);
  CHECK_EQ(bench.label(ticket, 3, 3), kDuplicate);
  CHECK_EQ(bench.label(ticket, 3, 4), kApplied);
  CHECK_EQ(bench.label(ticket, 3, 5), kUnknown);
  CHECK_EQ(bench.times(0), 2.0);
  CHECK_EQ(bench.losses(0), 1.0);
}

TEST(several_rows_are_taken_in_one_call) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  const std::array<std::int64_t, 3> asked{7, 8, 9};
  const std::uint64_t ticket = bench.predict(asked);
  const std::array<AnsweredRow, 5> rows{{{ticket, 2}, {ticket, 0}, {ticket, 2}, {0, 0}, {1, 0}}};
  const std::array<std::int64_t, 5> labels{9, 0, 9, 9, 9};
  const ColumnRows column{reinterpret_cast<const std::byte*>(labels.data())};
  Said said;
  said.labels.rows = &column;
  std::array<FeedbackStatus, 5> statuses{};
  bench.engine.feedback().take(*bench.application, rows, said, statuses.data());
  const std::array<FeedbackStatus, 5> wanted{kApplied, kApplied, kDuplicate, kUnknown, kExpired};
  CHECK(statuses == wanted);
  CHECK_EQ(bench.losses(1), 1.0);
}

TEST(contexts_are_kept_for_the_policy) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  Asking asking;
  asking.context = 0xfeedULL << 40;
  asking.has_context = true;
  const std::int64_t number = 5;
  const std::uint64_t ticket = bench.predict(std::span(&number, 1), asking);
  FeedbackStatus status{};
  const RecordPin record = bench.engine.feedback().records().find(ticket, 0, status);
  CHECK(record->has_context);
  CHECK_EQ(record->context, asking.context);
}

TEST(feedback_after_the_window_is_expired) {
  ManualClock clock;
  FeedbackBench bench(clock, 2, {1 << 20, 600 * kSecond});
  const std::uint64_t first = bench.predict(1);
  clock.advance(600 * kSecond);
  const std::uint64_t second = bench.predict(2);
  CHECK_EQ(bench.label(first, 1), kApplied);
  clock.advance(1);
  CHECK_EQ(bench.label(first, 1), kExpired);  // rather than a duplicate
  clock.advance(600 * kSecond - 1);
  CHECK_EQ(bench.label(second, 2), kApplied);
  clock.advance(1);
  const std::uint64_t third = bench.predict(3);
  CHECK_EQ(bench.engine.feedback().records().statistics().records, 1u);
  CHECK_EQ(bench.label(third, 3), kApplied);
}

TEST(the_oldest_records_make_room_for_new_ones) {
  ManualClock clock;
  FeedbackBench bench(clock, 2, {4096, kNever});
  std::vector<std::uint64_t> tickets;
  Random random(7);
  std::array<std::int64_t, 20> numbers{};
  for (int round = 0; round < 2'000; ++round) {
    const auto rows = 1 + random.below(numbers.size());
    numbers.fill(round);
    tickets.push_back(bench.predict(std::span(numbers).first(rows)));
    const JoinRecords::Statistics kept = bench.engine.feedback().records().statistics();
    CHECK(kept.bytes <= 4096);
    CHECK(kept.records >= 1);
    // Exactly the newest are there, whole.
    const std::size_t oldest = tickets.size() - kept.records;
    const auto row = static_cast<std::uint32_t>(rows - 1);
    CHECK_EQ(bench.label(tickets.back(), round, row), kApplied);
    FeedbackStatus status{};
    for (std::size_t i = 0; i < tickets.size(); i += i + 1 < oldest ? oldest - 1 - i : 1) {
      const RecordPin record = bench.engine.feedback().records().find(tickets[i], 0, status);
      CHECK_EQ(static_cast<bool>(record), i >= oldest);
      if (!record) {
        CHECK_EQ(status, kExpired);
        continue;
      }
      std::int64_t output = 0;
      std::memcpy(&output, record->output(1, record->rows - 1), sizeof(output));
      CHECK_EQ(output, static_cast<std::int64_t>(i));
    }
  }
  CHECK_EQ(bench.losses(0), 0.0);
  CHECK_EQ(bench.times(0), 2'000.0);
}

TEST(a_query_that_is_larger_than_all_memory_is_not_kept) {
  ManualClock clock;
  FeedbackBench bench(clock, 2, {1024, kNever});
  const std::uint64_t small = bench.predict(1);
  const std::vector<std::int64_t> rows(64);
  CHECK_EQ(bench.predict(rows), JoinRecords::kNotKept);
  CHECK_EQ(bench.label(JoinRecords::kNotKept, 1), kExpired);
  CHECK_EQ(bench.label(small, 1), kApplied);
}

TEST(a_record_in_use_stays_and_costs_new_ones_their_place) {
  ManualClock clock;
  FeedbackBench bench(clock, 2, {1024, kNever});
  const std::uint64_t used = bench.predict(42);
  FeedbackStatus status{};
  {
    const RecordPin record = bench.engine.feedback().records().find(used, 0, status);
    std::uint64_t newest = 0;
    for (int i = 0; i < 100; ++i) newest = bench.predict(i);
    CHECK_EQ(newest, JoinRecords::kNotKept);
    std::int64_t output = 0;
    std::memcpy(&output, record->output(0, 0), sizeof(output));
    CHECK_EQ(output, 42);
    CHECK_EQ(bench.label(used, 42), kApplied);
  }
  CHECK(bench.predict(1) != JoinRecords::kNotKept);
}

TEST(tickets_that_were_never_given_are_unknown) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  CHECK_EQ(bench.label(std::uint64_t{1} << 40, 1), kUnknown);
  const std::uint64_t ticket = bench.predict(1);
  CHECK_EQ(bench.label(ticket + (std::uint64_t{1} << 40), 1), kUnknown);
  CHECK_EQ(bench.label(JoinRecords::kNoTicket, 1), kUnknown);
  CHECK_EQ(bench.times(0), 0.0);
}

TEST(another_applications_query_is_foreign_and_stays_open) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  Application& other = bench.add_application("other");
  const std::uint64_t ticket = bench.predict(1);
  CHECK_EQ(bench.label(ticket, 1, 0, &other), kForeign);
  CHECK_EQ(other.contexts->own()[0].load(), 0.0);
  CHECK_EQ(bench.label(ticket, 1), kApplied);
}

TEST(applications_that_learn_nothing_keep_nothing) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  Application& plain =
      bench.engine.add_application("plain", {bench.linked[0]}, nullptr, kNever, 0.0F);
  const std::int64_t number = 5;
  CHECK_EQ(bench.predict(std::span(&number, 1), {}, &plain), JoinRecords::kNoTicket);
  CHECK_EQ(bench.engine.feedback().records().statistics().records, 0u);
  plain.keeps_records = true;  // as with a loss given, to have it judged
  plain.loss = bench.application->loss;
  const std::uint64_t ticket = bench.predict(std::span(&number, 1), {}, &plain);
  CHECK_EQ(bench.label(ticket, 6, 0, &plain), kApplied);
  CHECK_EQ(plain.feedback.models[0].loss.load(), 1.0);
}

TEST(what_no_model_answered_cannot_be_attributed) {
  ManualClock clock;
  FeedbackBench bench(clock, 3);
  const std::int64_t number = 5;
  const std::uint64_t none = bench.collect(bench.submit(std::span(&number, 1)));
  CHECK_EQ(bench.label(none, 5), kUnattributed);
  CHECK_EQ(bench.loss(none, 0.5F), kUnattributed);
  // One has answered: it is judged alone.
  for (std::uint16_t k = 0; k < 3; ++k) bench.run(k);  // what was withdrawn
  Query* query = bench.submit(std::span(&number, 1));
  bench.run(2);
  const std::uint64_t one = bench.collect(query);
  CHECK_EQ(bench.label(one, 6), kApplied);
  CHECK_EQ(bench.times(0) + bench.times(1), 0.0);
  CHECK_EQ(bench.times(2), 1.0);
  CHECK_EQ(bench.losses(2), 0.0);
}

TEST(an_answer_that_was_held_back_has_no_loss_but_may_have_a_label) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  Application& choosy = bench.add_application("choosy", false, 2.0F);
  bench.application = &choosy;
  const std::uint64_t ticket = bench.predict(5);
  CHECK_EQ(bench.loss(ticket, 0.5F), kUnattributed);
  CHECK_EQ(bench.label(ticket, 5), kApplied);
  CHECK_EQ(bench.times(0), 1.0);
}

TEST(feedback_comes_after_the_model_was_replaced_or_undeployed) {
  ManualClock clock;
  FeedbackBench bench(clock, 2);
  Deployment* before = bench.linked[0]->current();
  const std::uint64_t first = bench.predict(1);
  const std::uint64_t second = bench.predict(2);
  bench.deploy(0);
  before->close();
  before->free_memory();
  CHECK_EQ(bench.label(first, 1), kApplied);
  for (Model* model : bench.linked) model->set_current(nullptr);
  CHECK_EQ(bench.label(second, 3), kApplied);
  CHECK_EQ(bench.times(0), 2.0);
  CHECK_EQ(bench.losses(0), 1.0);
  const std::int64_t number = 3;
  CHECK_EQ(bench.label(bench.predict(std::span(&number, 1)), 3), kUnattributed);
}

TEST(everyone_is_asked_for_the_sake_of_a_label) {
  ManualClock clock;
  FeedbackBench bench(clock, 4, {}, true);
  Asking asking;
  asking.everyone = true;
  const std::array<std::int64_t, 2> rows{10, 20};
  Query* query = bench.submit(rows, asking);
  CHECK_EQ(query->asks, 4);
  for (std::uint16_t k = 0; k < 3; ++k) bench.run(k);  // the last one is late
  bench.engine.withdraw(*query, Cause::kDeadline);
  bench.engine.collect_answers(*query);
  const std::array<std::int64_t, 2> labels{10, 21};
  const ColumnRows column{reinterpret_cast<const std::byte*>(labels.data())};
  Said said;
  said.labels.rows = &column;
  std::array<FeedbackStatus, 2> statuses{};
  Feedback::take_answers(*bench.application, *query, said, statuses.data());
  bench.engine.release(*query);
  CHECK(statuses[0] == kApplied && statuses[1] == kApplied);
  for (std::uint16_t k = 0; k < 4; ++k) CHECK_EQ(bench.times(k), k < 3 ? 2.0 : 0.0);
  CHECK_EQ(bench.losses(0), 1.0);
  CHECK_EQ(bench.losses(2), 1.0);
  // Nothing of it counts as served.
  CHECK_EQ(bench.application->latency_ns.snapshot().count(), 0u);
  CHECK_EQ(bench.engine.feedback().records().statistics().records, 0u);
}

TEST(ragged_answers_are_kept_whole) {
  ManualClock clock;
  Engine engine(clock, 1);
  DeploymentOptions options;
  options.input = clipper::testing::kNumber;
  options.output = RowSpec(DType{DTypeCode::kInt, 64}, {});
  options.output.columns.push_back({{DTypeCode::kUInt, 8}, {}, true});
  options.row_budget_bytes = std::size_t{1} << 20;
  std::vector<Model*> models{&engine.add_model("a"), &engine.add_model("b")};
  for (Model* model : models) {
    Deployment& deployment = engine.add_deployment(options);
    deployment.add_replica(std::make_unique<FixedController>(4));
    model->set_current(&deployment);
  }
  Application& application = engine.add_application(
      "texts", models, std::make_unique<clipper::testing::Counting>(), kNever, 0.0F);
  application.loss = Loss(LossKind::kZeroOne, 1.0, options.output);
  const std::array<std::int64_t, 3> asked{1, 2, 3};
  Asking asking;
  asking.attended = true;
  Refusal refusal{};
  Query* query = engine.submit(application, reinterpret_cast<const std::byte*>(asked.data()), 3,
                               asking, refusal);
  const char* texts = "onethree";  // and nothing for the second
  const std::array<std::int64_t, 4> begins{0, 3, 3, 8};
  const std::array<std::int64_t, 3> numbers{1, 2, 3};
  const std::array<ColumnRows, 2> outputs{
      {{reinterpret_cast<const std::byte*>(numbers.data())},
       {reinterpret_cast<const std::byte*>(texts), begins.data()}}};
  for (Model* model : models) {
    Replica& replica = *model->current()->replicas()[0];
    Nanos retry_at_ns = kNever;
    engine.complete(*engine.drive(replica, retry_at_ns), outputs.data());
    engine.stop_driving(replica);
  }
  Outcome outcome;
  engine.collect(*query, 0, outcome);
  engine.release(*query);  // the record has copies of its own

  const std::array<AnsweredRow, 3> rows{
      {{outcome.ticket, 0}, {outcome.ticket, 1}, {outcome.ticket, 2}}};
  OutputCopies copies;
  CHECK_EQ(engine.feedback().look(application, rows[2], copies), kApplied);
  const RaggedCell& cell = OutputLayout::cell(copies.output(1), copies.layout()->columns()[1]);
  CHECK_EQ(std::string_view(reinterpret_cast<const char*>(cell.data), 5), "three");
  Said said;
  said.labels.rows = outputs.data();
  std::array<FeedbackStatus, 3> statuses{};
  engine.feedback().take(application, rows, said, statuses.data());
  for (const FeedbackStatus status : statuses) CHECK_EQ(status, kApplied);
  CHECK_EQ(application.feedback.models[0].loss.load(), 0.0);
  CHECK_EQ(application.feedback.models[1].judged.load(), 3u);
  CHECK_EQ(engine.feedback().look(application, rows[0], copies), kDuplicate);
}

/// Each thread asks and tells; some tell twice, some let others tell.
void ask_and_tell(FeedbackBench& bench, std::uint64_t seed, std::atomic<std::uint64_t>& shared,
                  std::array<std::uint64_t, kFeedbackStatuses>& seen) {
  Random random(seed);
  for (int round = 0; round < kRounds; ++round) {
    std::array<std::int64_t, 3> numbers{};
    numbers.fill(static_cast<std::int64_t>(random.below(100)));
    const std::uint64_t ticket = bench.predict(std::span(numbers).first(1 + random.below(3)));
    const std::uint64_t told = shared.exchange(ticket, std::memory_order_relaxed);
    for (const std::uint64_t one : {ticket, told, told}) {
      const FeedbackStatus status =
          random.below(2) == 0 ? bench.loss(one, 1.0F) : bench.label(one, 1'000);
      ++seen[static_cast<std::size_t>(status)];
    }
  }
}

void threads_lose_nothing(const JoinRecords::Options& options) {
  const MonotonicClock clock;
  FeedbackBench bench(clock, 3, options, true);
  std::atomic<std::uint64_t> shared{bench.predict(0)};
  std::array<std::array<std::uint64_t, kFeedbackStatuses>, kThreads> seen{};
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] { ask_and_tell(bench, i, shared, seen[i]); });
    }
  }
  for (std::size_t status = 0; status < kFeedbackStatuses; ++status) {
    std::uint64_t sum = 0;
    for (const auto& of_one : seen) sum += of_one[status];
    CHECK_EQ(bench.application->feedback.rows_by_status[status].load(), sum);
  }
  const auto applied = static_cast<double>(bench.counted(kApplied));
  CHECK_EQ(bench.times(0) + bench.times(1) + bench.times(2), applied);
  CHECK_NEAR(bench.losses(0) + bench.losses(1) + bench.losses(2), 3.0 * applied, 1e-2);
  CHECK_EQ(bench.counted(kApplied) + bench.counted(kDuplicate) + bench.counted(kExpired),
           std::uint64_t{3} * kThreads * kRounds);
  if (options.bytes > std::size_t{1} << 20) {
    // Nothing expires: each query but the last shared one has had its feedback, once.
    CHECK_EQ(bench.counted(kApplied), std::uint64_t{kThreads} * kRounds + 1);
    CHECK_EQ(bench.counted(kExpired), 0u);
  } else {
    CHECK(bench.counted(kApplied) > 0);
  }
}

TEST(no_feedback_is_lost_among_threads) { threads_lose_nothing({std::size_t{64} << 20, kNever}); }

TEST(none_is_taken_twice_where_records_are_pushed_out_all_the_time) {
  threads_lose_nothing({2048, kNever});
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
