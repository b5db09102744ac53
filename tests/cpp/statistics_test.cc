#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "statistics/model_statistics.h"
#include "statistics/output_reader.h"
#include "statistics/page_hinkley.h"
#include "statistics/population_shift.h"
#include "statistics/value_bins.h"

namespace {

using namespace clipper;

constexpr DType kInt64{DTypeCode::kInt, 64};
constexpr DType kFloat32{DTypeCode::kFloat, 32};

template <typename Number>
ColumnRows rows_of(const std::vector<Number>& numbers) {
  return {reinterpret_cast<const std::byte*>(numbers.data())};
}

/// Draws cells with these weights.
std::uint32_t draw(Random& random, const std::vector<double>& weights) {
  double point = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    if ((point -= weights[i]) < 0) return i;
  }
  return static_cast<std::uint32_t>(weights.size() - 1);
}

std::vector<std::uint32_t> sample(Random& random, const std::vector<double>& weights, int draws) {
  std::vector<std::uint32_t> counts(weights.size());
  for (int i = 0; i < draws; ++i) ++counts[draw(random, weights)];
  return counts;
}

// ---- the tests of drift -------------------------------------------------------------------------

TEST(the_index_is_what_the_formula_says) {
  const std::vector<std::uint32_t> before{5000, 3000, 2000};
  const std::vector<std::uint32_t> now{300, 300, 400};
  const double expected =
      -0.2 * std::log(0.3 / 0.5) + 0.0 * std::log(1.0) + 0.2 * std::log(0.4 / 0.2);
  CHECK_NEAR(population_shift(before, now).index, expected, 0.002);
  CHECK(population_shift(before, now).is_shift());
  CHECK_NEAR(population_shift(before, before).index, 0.0, 1e-12);
  const std::vector<std::uint32_t> nobody{0, 0, 0};
  CHECK(!population_shift(nobody, now).is_shift());
  CHECK(!population_shift(before, nobody).is_shift());
}

TEST(samples_of_one_population_raise_no_alarm) {
  Random random(1);
  std::vector<std::vector<double>> populations{{0.5, 0.5},
                                               {0.99, 0.01},
                                               {0.999, 0.001},
                                               std::vector<double>(10, 1.0),
                                               std::vector<double>(64, 1.0)};
  for (int i = 1; i <= 64; ++i) {
    if (i == 1) populations.emplace_back();
    populations.back().push_back(1.0 / i);
  }
  int alarms = 0;
  for (const auto& weights : populations) {
    double sum = 0;
    constexpr int kWindows = 2000;
    const auto reference = sample(random, weights, 10'000);
    for (int window = 0; window < kWindows; ++window) {
      const PopulationShift shift = population_shift(reference, sample(random, weights, 1000));
      alarms += shift.is_shift();
      sum += shift.index;
    }
    // What chance alone makes: the mean of chi-square is its degrees of freedom.
    const double by_chance = (1.0 / 1000 + 1.0 / 10'000) * static_cast<double>(weights.size() - 1);
    CHECK(sum / kWindows < 2.0 * by_chance + 0.001);
    std::fprintf(stderr, "  %zu cells: mean index %.4f, by chance %.4f\n", weights.size(),
                 sum / kWindows, by_chance);
  }
  CHECK_EQ(alarms, 0);  // of 12,000 windows
}

TEST(small_samples_raise_no_alarm_by_chance_alone) {
  Random random(2);
  const std::vector<double> weights(20, 1.0);
  int material = 0;
  int alarms = 0;
  for (int window = 0; window < 5000; ++window) {
    const auto shift = population_shift(sample(random, weights, 100), sample(random, weights, 100));
    material += shift.index > PopulationShift::kMaterial;
    alarms += shift.is_shift();
  }
  CHECK(material > 2000);  // the customary threshold alone would have
  CHECK_EQ(alarms, 0);
}

TEST(a_shifted_population_is_found_in_its_first_window) {
  Random random(3);
  const std::vector<double> before(10, 1.0);
  std::vector<double> tripled = before;
  tripled[0] = 4.0;
  std::vector<double> fresh = before;
  fresh.push_back(1.0);  // a label that was not there
  std::vector<double> before_fresh = before;
  before_fresh.push_back(0.0);
  int found = 0;
  for (int trial = 0; trial < 500; ++trial) {
    found +=
        population_shift(sample(random, before, 10'000), sample(random, tripled, 1000)).is_shift();
    found += population_shift(sample(random, before_fresh, 10'000), sample(random, fresh, 1000))
                 .is_shift();
  }
  CHECK_EQ(found, 1000);
}

TEST(stationary_losses_raise_no_alarm) {
  int alarms = 0;
  for (int stream = 0; stream < 200; ++stream) {
    Random random(static_cast<std::uint64_t>(stream));
    PageHinkley test;
    const double rate = 0.005 + 0.0045 * stream;  // up to 0.9
    for (int i = 0; i < 50'000; ++i) alarms += test.add(random.uniform() < rate ? 1.0 : 0.0);
  }
  CHECK_EQ(alarms, 0);  // in 10^7 losses
}

TEST(a_rise_of_the_loss_is_found_after_as_many_as_is_said) {
  for (const double rise : {0.1, 0.2, 0.4, 0.8}) {
    double delay = 0;
    constexpr int kStreams = 200;
    for (int stream = 0; stream < kStreams; ++stream) {
      Random random(static_cast<std::uint64_t>(stream));
      PageHinkley test;
      for (int i = 0; i < 10'000; ++i) CHECK(!test.add(random.uniform() < 0.1 ? 1.0 : 0.0));
      int after = 1;
      while (!test.add(random.uniform() < 0.1 + rise ? 1.0 : 0.0)) ++after;
      CHECK(!test.add(1.0));  // once
      CHECK(test.has_risen());
      delay += static_cast<double>(after) / kStreams;
    }
    const double expected = PageHinkley::kThreshold / (rise - PageHinkley::kTolerance);
    std::fprintf(stderr, "  rise %.1f: found after %.0f losses\n", rise, delay);
    CHECK(delay > 0.7 * expected && delay < 1.3 * expected);
  }
}

TEST(a_fall_of_the_loss_raises_no_alarm) {
  Random random(1);
  PageHinkley test;
  for (int i = 0; i < 20'000; ++i) {
    CHECK(!test.add(random.uniform() < (i < 5000 ? 0.6 : 0.1) ? 1.0 : 0.0));
  }
}

// ---- cells --------------------------------------------------------------------------------------

TEST(cells_get_about_as_many_each) {
  Random random(1);
  std::vector<double> first;
  for (int i = 0; i < 512; ++i) first.push_back(random.exponential(3.0));
  ValueBins bins;
  bins.learn(first);
  CHECK_EQ(bins.edges().size(), ValueBins::kEdges);
  std::array<int, ValueBins::kCells> counts{};
  for (int i = 0; i < 16'000; ++i) ++counts[bins.cell_of(random.exponential(3.0))];
  for (std::size_t cell = 0; cell < ValueBins::kNotFinite; cell += 2) {
    CHECK_NEAR(counts[cell], 1000, 500);
  }
  CHECK_EQ(bins.cell_of(std::nan("")), ValueBins::kNotFinite);
  CHECK_EQ(bins.cell_of(-std::numeric_limits<double>::infinity()), ValueBins::kNotFinite);
}

TEST(numbers_that_are_all_the_same_have_others_below_and_above) {
  ValueBins bins;
  bins.learn(std::vector<double>(512, 2.0));
  CHECK_EQ(bins.cell_of(1.0), 0u);
  CHECK_EQ(bins.cell_of(2.0), 1u);
  CHECK_EQ(bins.cell_of(3.0), 2u);
  bins.learn(std::vector<double>(10, std::nan("")));
  CHECK_EQ(bins.cell_of(1.0), 2u);
}

// ---- reading ------------------------------------------------------------------------------------

template <typename Number>
void reads_labels(DTypeCode code, std::uint8_t bits, Number number, std::int64_t label) {
  const OutputReader reader(RowSpec({code, bits}, {}));
  CHECK_EQ(reader.kind(), OutputKind::kLabels);
  const std::vector<Number> numbers{Number{}, number};
  const ColumnRows rows = rows_of(numbers);
  CHECK_EQ(reader.read(&rows, 1).label, label);
  CHECK_EQ(reader.read(&rows, 0).label, 0);
}

TEST(labels_of_every_integer_type_are_read) {
  reads_labels<std::int8_t>(DTypeCode::kInt, 8, -5, -5);
  reads_labels<std::uint8_t>(DTypeCode::kUInt, 8, 250, 250);
  reads_labels<std::uint8_t>(DTypeCode::kBool, 8, 1, 1);
  reads_labels<std::int16_t>(DTypeCode::kInt, 16, -500, -500);
  reads_labels<std::uint16_t>(DTypeCode::kUInt, 16, 65'000, 65'000);
  reads_labels<std::int32_t>(DTypeCode::kInt, 32, -70'000, -70'000);
  reads_labels<std::uint32_t>(DTypeCode::kUInt, 32, 4'000'000'000, 4'000'000'000);
  reads_labels<std::int64_t>(DTypeCode::kInt, 64, -1LL << 60, -1LL << 60);
  reads_labels<std::uint64_t>(DTypeCode::kUInt, 64, ~0ULL, -1);
}

template <typename Number>
double value_of(DType dtype, Number bits) {
  const OutputReader reader(RowSpec(dtype, {}));
  CHECK_EQ(reader.kind(), OutputKind::kValues);
  const std::vector<Number> numbers{bits};
  const ColumnRows rows = rows_of(numbers);
  return reader.read(&rows, 0).value;
}

TEST(values_of_every_float_type_are_read) {
  CHECK_EQ(value_of<float>(kFloat32, 0.5F), 0.5);
  CHECK_EQ(value_of<double>({DTypeCode::kFloat, 64}, 0.1), 0.1);
  const DType half{DTypeCode::kFloat, 16};
  CHECK_EQ(value_of<std::uint16_t>(half, 0x3c00), 1.0);
  CHECK_EQ(value_of<std::uint16_t>(half, 0xc100), -2.5);
  CHECK_EQ(value_of<std::uint16_t>(half, 0x0001), std::ldexp(1.0, -24));
  CHECK_EQ(value_of<std::uint16_t>(half, 0x7bff), 65504.0);
  CHECK(std::isinf(value_of<std::uint16_t>(half, 0xfc00)));
  CHECK(std::isnan(value_of<std::uint16_t>(half, 0x7e00)));
  CHECK_EQ(value_of<std::uint16_t>({DTypeCode::kBfloat, 16}, 0xc040), -3.0);
}

TEST(the_largest_of_a_vector_is_its_label) {
  const OutputReader reader(RowSpec(kFloat32, {3}));
  CHECK_EQ(reader.kind(), OutputKind::kScores);
  const float nan = std::nanf("");
  const std::vector<float> scores{0.1F, 0.7F, 0.2F, 0.9F, 0.05F, 0.05F, nan, -1.0F, -2.0F};
  const ColumnRows rows = rows_of(scores);
  CHECK_EQ(reader.read(&rows, 0).label, 1);
  CHECK_NEAR(reader.read(&rows, 0).value, 0.7, 1e-6);
  CHECK_EQ(reader.read(&rows, 1).label, 0);
  CHECK_EQ(reader.read(&rows, 2).label, 1);
  CHECK_EQ(reader.read(&rows, 2).value, -1.0);
}

TEST(the_largest_is_found_wherever_it_is) {
  const float nan = std::nanf("");
  for (const std::int64_t width : {2, 15, 16, 17, 40, 1000}) {
    const OutputReader reader(RowSpec(kFloat32, {width}));
    for (std::int64_t place = 0; place < width; ++place) {
      std::vector<float> scores(static_cast<std::size_t>(width), -3.0F);
      if (width > 2) scores[static_cast<std::size_t>((place + 1) % width)] = nan;
      scores[static_cast<std::size_t>(place)] = -2.0F;
      const ColumnRows rows = rows_of(scores);
      CHECK_EQ(reader.read(&rows, 0).label, place);
      CHECK_EQ(reader.read(&rows, 0).value, -2.0);
    }
    const std::vector<float> nothing(static_cast<std::size_t>(width), nan);
    const ColumnRows rows = rows_of(nothing);
    CHECK_EQ(reader.read(&rows, 0).label, 0);
    CHECK(std::isnan(reader.read(&rows, 0).value));
  }
}

TEST(what_has_neither_label_nor_value_is_left_alone) {
  CHECK_EQ(OutputReader(RowSpec(kFloat32, {3, 3})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec(kInt64, {3})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec({DTypeCode::kComplex, 64}, {})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec(kFloat32, {20'000})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec(kFloat32, {0})).kind(), OutputKind::kNothing);
  RowSpec several(TensorSpec{kFloat32, {}, true});
  several.columns.push_back({kInt64, {1}, false});
  const OutputReader reader(several);
  CHECK_EQ(reader.kind(), OutputKind::kLabels);
  CHECK_EQ(reader.column(), 1u);
}

// ---- over time ----------------------------------------------------------------------------------

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
