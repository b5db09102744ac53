#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/histogram.h"
#include "base/random.h"
#include "check.h"

namespace {

using clipper::Histogram;
using clipper::HistogramSnapshot;
using clipper::kMillisecond;
using clipper::Nanos;
using clipper::Random;

/// Latencies over many octaves, as a serving system sees them.
std::vector<Nanos> latencies(std::uint64_t seed, std::size_t count) {
  Random random(seed);
  std::vector<Nanos> values(count);
  for (Nanos& value : values) {
    value = static_cast<Nanos>(std::exp(random.uniform() * std::log(2e9)));
  }
  return values;
}

bool equal(const HistogramSnapshot& left, const HistogramSnapshot& right) {
  for (std::size_t bucket = 0; bucket < HistogramSnapshot::kBuckets; ++bucket) {
    if (left.count_of(bucket) != right.count_of(bucket)) return false;
  }
  return left.sum_ns() == right.sum_ns() && left.max_ns() == right.max_ns();
}

TEST(an_empty_histogram_answers_nought) {
  const HistogramSnapshot empty = Histogram().snapshot();
  CHECK_EQ(empty.count(), 0u);
  CHECK_EQ(empty.quantile_ns(0.99), 0);
  CHECK_EQ(empty.max_ns(), 0);
  CHECK_EQ(empty.mean_ns(), 0.0);
}

TEST(buckets_tile_the_axis) {
  for (std::size_t bucket = 0; bucket < HistogramSnapshot::kBuckets; ++bucket) {
    const Nanos last = HistogramSnapshot::upper_bound(bucket);
    CHECK_EQ(HistogramSnapshot::bucket_of(last), bucket);
    if (bucket + 1 < HistogramSnapshot::kBuckets) {
      CHECK_EQ(HistogramSnapshot::bucket_of(last + 1), bucket + 1);
    }
  }
  CHECK_EQ(HistogramSnapshot::upper_bound(HistogramSnapshot::kBuckets - 1),
           HistogramSnapshot::kLargest);
}

TEST(a_bucket_is_at_most_a_thirty_second_wide) {
  for (const Nanos value : latencies(1, 10'000)) {
    const Nanos upper = HistogramSnapshot::upper_bound(HistogramSnapshot::bucket_of(value));
    CHECK(upper >= value);
    CHECK(static_cast<double>(upper - value) <= static_cast<double>(value) / 32);
  }
}

TEST(out_of_range_values_are_counted_at_the_ends) {
  Histogram histogram;
  histogram.record(-5);
  histogram.record(HistogramSnapshot::kLargest + 1'000);
  const HistogramSnapshot taken = histogram.snapshot();
  CHECK_EQ(taken.count(), 2u);
  CHECK_EQ(taken.count_of(0), 1u);
  CHECK_EQ(taken.quantile_ns(0.5), 0);
  CHECK_EQ(taken.quantile_ns(1.0), HistogramSnapshot::kLargest + 1'000);
}

TEST(quantiles_are_the_sorted_values_ones_rounded_up) {
  std::vector<Nanos> values = latencies(2, 20'000);
  Histogram histogram;
  for (const Nanos value : values) histogram.record(value);
  const HistogramSnapshot taken = histogram.snapshot();

  std::sort(values.begin(), values.end());
  for (const double p : {0.0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double position = std::ceil(p * static_cast<double>(values.size()));
    const Nanos exact = values[static_cast<std::size_t>(std::max(position, 1.0)) - 1];
    CHECK(taken.quantile_ns(p) >= exact);
    CHECK(static_cast<double>(taken.quantile_ns(p)) <= static_cast<double>(exact) * 33 / 32);
  }
  CHECK_EQ(taken.max_ns(), values.back());
  CHECK_EQ(taken.quantile_ns(1.0), values.back());
}

TEST(count_and_mean_are_exact) {
  Histogram histogram;
  for (Nanos milliseconds = 1; milliseconds <= 100; ++milliseconds) {
    histogram.record(milliseconds * kMillisecond);
  }
  CHECK_EQ(histogram.snapshot().count(), 100u);
  CHECK_NEAR(histogram.snapshot().mean_ns(), 50.5e6, 1e-3);
}

/// The same steps in one thread and in several must give the same histogram.
TEST(threads_lose_no_value) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kValues = 50'000;
  Histogram sequential;
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    for (const Nanos value : latencies(thread, kValues)) sequential.record(value);
  }

  Histogram concurrent;
  {
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&concurrent, thread] {
        for (const Nanos value : latencies(thread, kValues)) concurrent.record(value);
      });
    }
    // A reader beside them sees counts that only grow.
    std::uint64_t seen = 0;
    for (int i = 0; i < 200; ++i) {
      const std::uint64_t count = concurrent.snapshot().count();
      CHECK(count >= seen);
      seen = count;
    }
  }
  CHECK(equal(sequential.snapshot(), concurrent.snapshot()));
  CHECK_EQ(concurrent.snapshot().count(), kThreads * kValues);
}

TEST(merging_is_recording_everything_in_one) {
  Histogram whole, sum;
  HistogramSnapshot snapshots;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    Histogram part;
    for (const Nanos value : latencies(seed, 5'000)) {
      part.record(value);
      whole.record(value);
    }
    part.merge_into(sum);
    snapshots.merge(part.snapshot());
  }
  CHECK(equal(whole.snapshot(), sum.snapshot()));
  CHECK(equal(whole.snapshot(), snapshots));
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
