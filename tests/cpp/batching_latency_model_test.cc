#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "batching/latency_model.h"
#include "check.h"

namespace {

using clipper::kMicrosecond;
using clipper::kMillisecond;
using clipper::kNever;
using clipper::kSecond;
using clipper::LatencyModel;
using clipper::Nanos;
namespace row_buckets = clipper::row_buckets;

constexpr Nanos kFixed = 900 * kMicrosecond;
constexpr Nanos kPerRow = 100 * kMicrosecond;

Nanos line(std::uint32_t rows) { return kFixed + kPerRow * rows; }

/// Runs of 1 to `largest` rows on the line, `factor` times as long.
void teach(LatencyModel& model, std::size_t runs, std::uint32_t largest = 64, double factor = 1,
           std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < runs; ++i) {
    const auto rows = static_cast<std::uint32_t>(1 + random() % largest);
    model.observe(rows, static_cast<Nanos>(static_cast<double>(line(rows)) * factor));
  }
}

TEST(buckets_partition_all_sizes) {
  std::size_t last = 0;
  for (std::uint32_t rows = 1; rows <= row_buckets::kLargestRows; rows += 1 + rows / 64) {
    const clipper::RowBucket bucket = row_buckets::of(rows);
    CHECK(bucket.low < rows && rows <= bucket.high());
    CHECK(bucket.index >= last && bucket.index < row_buckets::kCount);
    CHECK_EQ(row_buckets::at(bucket.index).low, bucket.low);
    CHECK_EQ(row_buckets::at(bucket.index).width_log2, bucket.width_log2);
    last = bucket.index;
  }
  CHECK_EQ(row_buckets::of(row_buckets::kLargestRows).index, row_buckets::kCount - 1);
}

TEST(powers_of_two_close_their_buckets) {
  for (std::uint32_t rows = 1; rows <= row_buckets::kLargestRows; rows *= 2) {
    CHECK_EQ(row_buckets::of(rows).high(), rows);
  }
}

TEST(knows_nothing_before_the_first_run) {
  const LatencyModel model;
  CHECK_EQ(model.bound_ns(1), 0);
  CHECK_EQ(model.expected_ns(100), 0);
  CHECK_EQ(model.rows_within(kSecond), 0u);
  CHECK_EQ(model.prudent_rows(100, kSecond), 1u);
  CHECK(!model.is_warm());
}

TEST(learns_a_line_within_the_margin) {
  LatencyModel model;
  teach(model, 200);
  for (const std::uint32_t rows : {1u, 7u, 8u, 9u, 33u, 64u, 128u, 1000u, 65'536u}) {
    CHECK_NEAR(model.expected_ns(rows), line(rows), 0.01 * static_cast<double>(line(rows)));
    CHECK(model.bound_ns(rows) >= line(rows));
    CHECK(static_cast<double>(model.bound_ns(rows)) < 1.03 * static_cast<double>(line(rows)));
  }
}

TEST(bounds_are_monotone) {
  LatencyModel model;
  std::mt19937_64 random(3);
  for (int i = 0; i < 2000; ++i) {
    model.observe(static_cast<std::uint32_t>(1 + random() % 5000),
                  static_cast<Nanos>(1 + random() % kSecond));
    if (i % 100 != 0) continue;
    Nanos last = 0;
    for (std::uint32_t rows = 1; rows < 6000; rows += 7) {
      CHECK(model.bound_ns(rows) >= last);
      last = model.bound_ns(rows);
    }
  }
}

TEST(rows_within_inverts_the_bound) {
  LatencyModel model;
  teach(model, 300, 1000);
  for (Nanos limit = kMillisecond / 2; limit < kSecond; limit += 3 * kMillisecond) {
    const std::uint32_t rows = model.rows_within(limit);
    CHECK(rows == 0 || model.bound_ns(rows) <= limit);
    CHECK(model.bound_ns(rows + 2) > limit);
  }
  CHECK_EQ(model.rows_within(0), 0u);
  CHECK_EQ(model.rows_within(kNever), row_buckets::kLargestRows);
}

TEST(one_size_is_read_pessimistically) {
  LatencyModel model;
  for (int i = 0; i < 20; ++i) model.observe(16, line(16));
  CHECK(!model.knows_slope());
  CHECK(model.expected_ns(1) >= line(1));
  CHECK(model.bound_ns(32) >= line(32));
  CHECK_EQ(model.prudent_rows(1000, 0), 64u);
}

TEST(an_outlier_neither_raises_bounds_nor_lingers) {
  for (const Nanos factor : {10, 20, 100}) {
    LatencyModel model;
    teach(model, 200);
    const Nanos before = model.bound_ns(32);
    model.observe(32, factor * line(32));
    CHECK(model.bound_ns(32) <= before + before / 20);
    teach(model, 100);
    CHECK(static_cast<double>(model.bound_ns(32)) < 1.1 * static_cast<double>(line(32)));
  }
}

TEST(a_slow_first_run_is_forgotten_quickly) {
  LatencyModel model;
  model.observe(1, 100 * line(1));
  for (int i = 0; i < 8; ++i) model.observe(1, line(1));
  CHECK(model.bound_ns(1) < 2 * line(1));
}

TEST(a_drift_upwards_is_followed_within_a_few_runs) {
  for (const double factor : {1.3, 2.0, 8.0}) {
    LatencyModel model;
    teach(model, 500);
    teach(model, 6, 64, factor, 7);
    for (const std::uint32_t rows : {1u, 16u, 64u}) {
      CHECK(static_cast<double>(model.bound_ns(rows)) >= factor * static_cast<double>(line(rows)));
    }
    teach(model, 300, 64, factor, 9);
    CHECK(static_cast<double>(model.bound_ns(64)) < 1.1 * factor * static_cast<double>(line(64)));
  }
}

TEST(a_drift_downwards_is_followed_within_tens_of_runs) {
  LatencyModel model;
  teach(model, 500);
  teach(model, 40, 8, 0.5);  // small batches only: large ones must learn from them
  CHECK(static_cast<double>(model.bound_ns(4)) < 0.75 * static_cast<double>(line(4)));
  CHECK(static_cast<double>(model.bound_ns(64)) < 0.75 * static_cast<double>(line(64)));
}

TEST(one_run_in_a_thousand_is_late_under_noise) {
  for (const double sigma : {0.05, 0.2, 0.5}) {
    LatencyModel model;
    std::mt19937_64 random(11);
    std::normal_distribution<double> normal;
    const int runs = 100'000;
    for (int i = 0; i < runs; ++i) {
      const auto rows = static_cast<std::uint32_t>(1 + random() % 32);
      const double noise = std::exp(sigma * normal(random));
      model.observe(rows, static_cast<Nanos>(static_cast<double>(line(rows)) * noise));
    }
    // The margin may not exceed 1.5, so that a very wide distribution stays above the target.
    CHECK(model.late_runs() <
          static_cast<std::uint64_t>(sigma < 0.4 ? 0.0015 * runs : 0.004 * runs));
    CHECK(model.margin() >= clipper::ConformalMargin::kLeast);
    CHECK(model.margin() <= clipper::ConformalMargin::kMost);
  }
}

TEST(steps_as_of_a_padded_model_are_bounded) {
  LatencyModel model;
  std::mt19937_64 random(5);
  int late = 0;
  for (int i = 0; i < 5000; ++i) {
    const auto rows = static_cast<std::uint32_t>(1 + random() % 200);
    const Nanos takes = line(std::uint32_t{1} << (32 - std::countl_zero(rows - 1)) % 32);
    if (i > 500 && takes > model.bound_ns(rows)) ++late;
    model.observe(rows, takes);
  }
  CHECK(late <= 15);
}

TEST(a_short_stall_is_forgotten_after_a_few_runs) {
  for (const int stalled : {1, 3, 5, 20}) {
    LatencyModel model;
    for (int i = 0; i < 500; ++i) model.observe(1, line(1));
    for (int i = 0; i < stalled; ++i) model.observe(1, 600 * line(1));
    CHECK(model.bound_ns(1) <= 2 * 600 * line(1));  // a drift is scaled once, not twice
    for (int i = 0; i < 4; ++i) model.observe(1, line(1));
    CHECK(model.bound_ns(1) < 3 * line(1));
  }
}

// Serving at low load after the warm-up: noisy, slower than in a tight loop, and next to nothing
// but single rows.
TEST(single_rows_leave_what_large_batches_take) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    std::lognormal_distribution<double> noise(0, 0.25);
    LatencyModel model;
    for (std::uint32_t rows = 1; rows <= 2048; rows *= 2) {
      for (int i = 0; i < 5; ++i) model.observe(rows, line(rows));
    }
    for (int i = 0; i < 1000; ++i) {
      const std::uint32_t rows = 1 + (random() % 20 == 0) + (random() % 100 == 0);
      const double took = 1.5 * static_cast<double>(line(rows)) * noise(random);
      model.observe(rows, static_cast<Nanos>(took));
    }
    for (const std::uint32_t rows : {64u, 1000u}) {
      CHECK(model.bound_ns(rows) >= line(rows));
      CHECK(model.bound_ns(rows) <= 6 * line(rows));
    }
  }
}

TEST(batches_are_split_where_two_cost_less_than_one) {
  LatencyModel falling;  // rows cost a tenth more where more than 8 of them leave the cache
  LatencyModel usual;
  for (int round = 0; round < 10; ++round) {
    for (const std::uint32_t rows : {1u, 2u, 4u, 8u, 16u, 32u, 64u}) {
      const Nanos per_row = rows <= 8 ? kMillisecond : kMillisecond * 11 / 10;
      falling.observe(rows, per_row * rows + kMillisecond / 10);
      usual.observe(rows, line(rows));
    }
  }
  CHECK_EQ(falling.economical_rows(64), 8u);
  CHECK_EQ(falling.economical_rows(8), 8u);
  CHECK_EQ(falling.economical_rows(3), 3u);
  for (const std::uint32_t rows : {1u, 9u, 64u, 500u}) CHECK_EQ(usual.economical_rows(rows), rows);
}

TEST(where_runs_scatter_the_likely_time_lies_far_below_the_bound) {
  LatencyModel regular;
  LatencyModel scattered;
  for (int round = 0; round < 64; ++round) {
    for (const std::uint32_t rows : {1u, 4u, 16u}) {
      regular.observe(rows, line(rows));
      // One run in sixteen takes half as long again.
      const bool is_slow = round % 16 == 7;
      scattered.observe(rows, is_slow ? line(rows) * 3 / 2 : line(rows));
    }
  }
  CHECK_EQ(regular.likely_ns(16), regular.bound_ns(16));
  CHECK_EQ(regular.rows_likely_within(line(16) * 2), regular.rows_within(line(16) * 2));
  CHECK(scattered.bound_ns(16) >= line(16) * 3 / 2);
  CHECK(scattered.likely_ns(16) < line(16) * 6 / 5);
  CHECK(scattered.likely_ns(16) >= line(16) * 9 / 10);
  const Nanos limit = line(16) * 5 / 4;
  CHECK(scattered.rows_within(limit) < 16);
  CHECK(scattered.rows_likely_within(limit) >= 16);
  const std::uint32_t most = scattered.rows_likely_within(limit);
  CHECK(scattered.likely_ns(most) <= limit);
  CHECK(scattered.likely_ns(most + 1) > limit);
  CHECK_EQ(LatencyModel().likely_ns(3), 0);
}

TEST(nonsense_is_survived) {
  LatencyModel model;
  const Nanos times[] = {0, -1, 1, kNever, -kNever, std::numeric_limits<Nanos>::min(), kSecond};
  const std::uint32_t sizes[] = {0, 1, 2, 8, 9, 65'536, 1U << 20, (1U << 20) + 1, 0xFFFF'FFFFU};
  for (int round = 0; round < 50; ++round) {
    for (const Nanos time : times) {
      for (const std::uint32_t rows : sizes) {
        model.observe(rows, time);
        CHECK(model.bound_ns(rows) > 0);
        CHECK(model.expected_ns(rows) > 0);
        (void)model.rows_within(time);
        CHECK(model.prudent_rows(rows, time) <= std::max(rows, 1U));
      }
    }
  }
  for (int i = 0; i < 300; ++i) model.observe(4, line(4));
  CHECK(model.bound_ns(4) < 3 * line(4));
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
