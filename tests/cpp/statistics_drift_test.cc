// Drift is found where there is some, and nowhere else.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "statistics/page_hinkley.h"
#include "statistics/population_shift.h"
#include "statistics/value_bins.h"
#include "statistics_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

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

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
