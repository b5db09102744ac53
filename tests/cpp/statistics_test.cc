// A model's outputs and losses over time, and what it costs to look at them.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "statistics/model_statistics.h"
#include "statistics_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

StatisticsOptions quick() {
  return {.window_ns = kSecond, .window_rows = 100, .windows = 5, .reference_windows = 2};
}

/// Batches of one row each, a tenth of a second apart.
class Stream {
 public:
  explicit Stream(ModelStatistics& statistics) : statistics_(statistics) {}

  template <typename Number>
  bool give(const std::vector<Number>& row) {
    now_ns += kSecond / 100;
    const ColumnRows rows = rows_of(row);
    return statistics_.take_in(&rows, 1, now_ns);
  }

  Nanos now_ns = kSecond;

 private:
  ModelStatistics& statistics_;
};

TEST(labels_are_counted_by_window) {
  ModelStatistics statistics(RowSpec(kInt64, {}), quick());
  Stream stream(statistics);
  for (std::int64_t i = 0; i < 150; ++i) CHECK(!stream.give<std::int64_t>({i % 3 * 10}));
  const StatisticsSnapshot seen = statistics.snapshot();
  CHECK_EQ(seen.kind, OutputKind::kLabels);
  CHECK_EQ(seen.labels, (std::vector<std::int64_t>{0, 10, 20}));
  CHECK_EQ(seen.windows.size(), 2u);
  CHECK(seen.windows[0].rows >= 100);
  CHECK_EQ(seen.windows[0].rows + seen.windows[1].rows, 150u);
  for (std::size_t label = 0; label < 3; ++label) {
    CHECK_EQ(seen.windows[0].labels[label] + seen.windows[1].labels[label], 50u);
  }
  CHECK_EQ(seen.reference_windows, 1u);
  CHECK_EQ(seen.reference.rows, seen.windows[0].rows);
}

TEST(a_window_ends_only_when_both_its_time_and_its_rows_are_there) {
  ModelStatistics statistics(RowSpec(kInt64, {}), quick());
  const std::vector<std::int64_t> label{1};
  const ColumnRows rows = rows_of(label);
  for (int i = 0; i < 1000; ++i) CHECK(!statistics.take_in(&rows, 1, kSecond + i));
  CHECK_EQ(statistics.snapshot().windows.size(), 1u);
  CHECK(!statistics.take_in(&rows, 1, 3 * kSecond));
  CHECK_EQ(statistics.snapshot().windows.size(), 2u);
  CHECK(!statistics.take_in(&rows, 1, 1000 * kSecond));
  CHECK_EQ(statistics.snapshot().windows.size(), 2u);
}

TEST(as_many_windows_are_kept_as_was_asked) {
  ModelStatistics statistics(RowSpec(kInt64, {}), quick());
  Stream stream(statistics);
  for (int i = 0; i < 5000; ++i) CHECK(!stream.give<std::int64_t>({i % 2}));
  const StatisticsSnapshot seen = statistics.snapshot();
  CHECK_EQ(seen.windows.size(), 6u);  // the last goes on
  for (std::size_t i = 1; i < seen.windows.size(); ++i) {
    CHECK(seen.windows[i].begun_ns >= seen.windows[i - 1].ended_ns);
  }
}

TEST(more_labels_than_there_are_places_share_one) {
  ModelStatistics statistics(RowSpec(kInt64, {}), {.window_rows = 1'000'000});
  Stream stream(statistics);
  for (std::int64_t i = 0; i < 1000; ++i) CHECK(!stream.give<std::int64_t>({i * 1'000'003}));
  const StatisticsSnapshot seen = statistics.snapshot();
  CHECK_EQ(seen.labels.size(), StatisticsWindow::kLabels);
  CHECK_EQ(seen.windows[0].labels[StatisticsWindow::kLabels], 1000 - StatisticsWindow::kLabels);
}

TEST(values_have_mean_spread_and_histogram) {
  ModelStatistics statistics(RowSpec(kFloat32, {}), {.window_rows = 1'000'000});
  Stream stream(statistics);
  Random random(1);
  for (int i = 0; i < 10'000; ++i) {
    CHECK(!stream.give<float>({static_cast<float>(1000.0 + random.uniform())}));
  }
  CHECK(!stream.give<float>({std::nanf("")}));
  const StatisticsWindow window = statistics.snapshot().windows[0];
  CHECK_NEAR(window.mean, 1000.5, 0.02);
  CHECK_NEAR(window.squares / static_cast<double>(window.finite), 1.0 / 12, 0.005);
  CHECK(window.least >= 1000.0 && window.most <= 1001.0);
  CHECK_EQ(window.finite, 10'000u);
  CHECK_EQ(std::accumulate(window.values.begin(), window.values.end(), 0U), 10'001u);
  CHECK_EQ(window.values[ValueBins::kNotFinite], 1u);
}

TEST(an_alarm_goes_up_once_and_down_when_all_is_as_before) {
  ModelStatistics statistics(RowSpec(kFloat32, {2}), quick());
  Stream stream(statistics);
  const auto give = [&](int rows, float second) {
    int raised = 0;
    for (int i = 0; i < rows; ++i) {
      raised += stream.give<float>({i % 2 == 0 ? 0.9F : 0.1F, second});
    }
    return raised;
  };
  CHECK_EQ(give(1000, 0.5F), 0);
  CHECK_EQ(statistics.take_raised(), 0u);
  CHECK_EQ(give(1000, 0.95F), 1);  // now the second always wins, and by other values
  const StatisticsSnapshot seen = statistics.snapshot();
  CHECK(seen.alarms[0].is_up && seen.alarms[1].is_up);
  CHECK_EQ(seen.alarms[0].raised, 1u);
  CHECK(seen.alarms[0].since_ns > 11 * kSecond && seen.alarms[0].since_ns <= 14 * kSecond);
  CHECK_EQ(statistics.take_raised(), 3u);
  CHECK_EQ(statistics.take_raised(), 0u);
  CHECK_EQ(give(1000, 0.5F), 0);
  CHECK(!statistics.snapshot().alarms[0].is_up);
  CHECK_EQ(give(1000, 0.95F), 1);
  const StatisticsSnapshot again = statistics.snapshot();
  CHECK_EQ(again.alarms[0].raised, 2u);
}

TEST(after_a_reset_what_comes_is_what_is_usual) {
  ModelStatistics statistics(RowSpec(kInt64, {}), quick());
  Stream stream(statistics);
  for (int i = 0; i < 1000; ++i) CHECK(!stream.give<std::int64_t>({0}));
  int raised = 0;
  for (int i = 0; i < 1000; ++i) raised += stream.give<std::int64_t>({1});
  CHECK_EQ(raised, 1);
  statistics.reset();
  CHECK_EQ(statistics.take_raised(), 0u);
  for (int i = 0; i < 1000; ++i) CHECK(!stream.give<std::int64_t>({1}));
  const StatisticsSnapshot seen = statistics.snapshot();
  CHECK(!seen.alarms[0].is_up);
  CHECK(seen.has_reference);
  CHECK_EQ(seen.labels, (std::vector<std::int64_t>{1}));
}

TEST(losses_are_kept_by_window_and_watched) {
  for (const RowSpec& output : {RowSpec(kInt64, {}), RowSpec(kInt64, {2})}) {
    ModelStatistics statistics(output, quick());
    Random random(1);
    Nanos now_ns = kSecond;
    int raised = 0;
    for (int i = 0; i < 2000; ++i) {
      now_ns += kSecond / 100;
      raised += statistics.note_loss(random.uniform() < (i < 1000 ? 0.1 : 0.7) ? 1.0 : 0.0, now_ns);
      if (i < 1000) CHECK_EQ(raised, 0);
    }
    CHECK_EQ(raised, 1);
    CHECK(!statistics.note_loss(std::nan(""), now_ns));
    CHECK(!statistics.note_loss(2.0, now_ns));
    const StatisticsSnapshot seen = statistics.snapshot();
    CHECK_EQ(seen.losses, 2000u);
    CHECK(seen.alarms[2].is_up);
    CHECK_EQ(statistics.take_raised(), 4u);
    const auto& last = seen.windows[seen.windows.size() == 1 ? 0 : seen.windows.size() - 2];
    CHECK_NEAR(last.loss_sum / static_cast<double>(last.losses),
               seen.windows.size() == 1 ? 0.4 : 0.7, 0.15);
  }
}

// ---- cost ---------------------------------------------------------------------------------------

TEST(of_a_large_batch_few_rows_are_looked_at_and_every_place_has_its_turn) {
  ModelStatistics statistics(RowSpec(kInt64, {}), {.window_rows = 1'000'000});
  std::vector<std::int64_t> labels(64);
  std::iota(labels.begin(), labels.end(), 0);
  const ColumnRows rows = rows_of(labels);
  for (int i = 0; i < 400; ++i) CHECK(!statistics.take_in(&rows, 64, kSecond + i));
  const StatisticsWindow window = statistics.snapshot().windows[0];
  CHECK_EQ(window.rows, 400u * ModelStatistics::kRowsOfBatch);
  for (std::size_t label = 0; label < 64; ++label) CHECK_EQ(window.labels[label], 100u);
}

TEST(of_long_vectors_most_batches_are_passed_over) {
  for (const std::int64_t width : {1000, 5000, 16'384}) {
    ModelStatistics statistics(RowSpec(kFloat32, {width}), {.window_rows = 1'000'000});
    const std::vector<float> scores(static_cast<std::size_t>(width) * 4, 0.5F);
    const ColumnRows rows = rows_of(scores);
    for (int i = 0; i < 1600; ++i) CHECK(!statistics.take_in(&rows, 4, kSecond + i));
    const auto looked = statistics.snapshot().windows[0].rows * static_cast<std::uint64_t>(width);
    CHECK(looked <= 1601 * ModelStatistics::kNumbersOfBatch);
    CHECK(looked >= 1600 * ModelStatistics::kNumbersOfBatch / 2);
  }
}

TEST(threads_that_come_together_do_not_wait_and_count_right) {
  ModelStatistics statistics(RowSpec(kFloat32, {2}), quick());
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done.load()) {
      for (const StatisticsWindow& window : statistics.snapshot().windows) {
        CHECK_EQ(std::accumulate(window.labels.begin(), window.labels.end(), 0U), window.rows);
      }
      (void)statistics.take_raised();
    }
  });
  std::vector<std::thread> threads;
  for (int number = 0; number < 8; ++number) {
    threads.emplace_back([&, number] {
      const std::vector<float> scores{0.3F, 0.7F, 0.8F, 0.2F};
      const ColumnRows rows = rows_of(scores);
      for (int i = 0; i < 20'000; ++i) {
        const Nanos now_ns = kSecond + i * kMillisecond;
        (void)statistics.take_in(&rows, 2, now_ns);
        if (number == 0) (void)statistics.note_loss(0.5, now_ns);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  reader.join();
  const StatisticsSnapshot seen = statistics.snapshot();
  CHECK_EQ(seen.losses, 20'000u);
  CHECK(!seen.alarms[0].is_up);
  CHECK(seen.has_reference);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
