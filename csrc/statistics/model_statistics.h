// What a deployment's outputs and losses are like over time, and an alarm when they change.
//
// Rows are sampled off finished batches into windows of time. The first windows together are the
// reference; each further one is compared with it when it ends (population_shift.h), labels and
// values each for themselves. Losses come from feedback and are watched one by one
// (page_hinkley.h). An alarm of the outputs ends when they are as before; that of the losses with
// reset().
//
// Cost: of a batch at most 16 rows and on average 1,024 numbers are looked at, 16,384 at once; a
// batch that finds another one being looked at is passed over. Once, when the edges are chosen, 512
// numbers are sorted. Nothing is asked of a clock, and nothing is allocated but for those edges.
//
// Thread safety: all of it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/tensor.h"
#include "statistics/output_reader.h"
#include "statistics/page_hinkley.h"
#include "statistics/population_shift.h"
#include "statistics/value_bins.h"

namespace clipper {

struct StatisticsOptions {
  Nanos window_ns = 60 * kSecond;  ///< a window lasts at least so long,
  /// and until so many rows were sampled; losses, where nothing is read off rows.
  std::uint64_t window_rows = 1000;
  std::uint32_t windows = 60;            ///< that are kept
  std::uint32_t reference_windows = 10;  ///< that make the reference
};

struct StatisticsWindow {
  static constexpr std::size_t kLabels = 64;  ///< told apart; all others are one more

  Nanos begun_ns = 0;
  Nanos ended_ns = 0;  ///< of the last row; 0: there was none
  std::uint64_t rows = 0;
  std::array<std::uint32_t, kLabels + 1> labels{};
  std::array<std::uint32_t, ValueBins::kCells> values{};
  // Of the values that are finite.
  std::uint64_t finite = 0;
  double mean = 0.0;
  double squares = 0.0;  ///< sum of the squared distances from the mean
  double least = std::numeric_limits<double>::infinity();
  double most = -std::numeric_limits<double>::infinity();
  std::uint64_t losses = 0;
  double loss_sum = 0.0;

  void add_value(double value) noexcept;
  void add_counts(const StatisticsWindow& other) noexcept;
};

enum class DriftKind : std::uint8_t { kLabels, kValues, kLoss };
inline constexpr std::size_t kDriftKinds = 3;

struct DriftAlarm {
  bool is_up = false;
  Nanos since_ns = 0;
  std::uint64_t raised = 0;  ///< how often, ever
  PopulationShift last;      ///< of the last window; nothing for the loss
};

/// All of it at one moment.
struct StatisticsSnapshot {
  OutputKind kind = OutputKind::kNothing;
  std::size_t column = 0;
  bool is_unsigned = false;
  std::vector<std::int64_t> labels;       ///< what the places of the label counts stand for
  std::vector<double> edges;              ///< of the cells of values
  std::vector<StatisticsWindow> windows;  ///< oldest first; the last has not ended
  std::uint32_t reference_windows = 0;    ///< that are in the reference so far
  bool has_reference = false;             ///< complete
  StatisticsWindow reference;
  std::uint64_t losses = 0;
  double mean_loss = 0.0;
  std::array<DriftAlarm, kDriftKinds> alarms;
};

class ModelStatistics {
 public:
  static constexpr std::uint32_t kRowsOfBatch = 16;
  static constexpr std::size_t kNumbersOfBatch = 1024;

  ModelStatistics(const RowSpec& output, const StatisticsOptions& options);

  /// Samples a finished batch, given column by column. True: an alarm went up.
  [[nodiscard]] bool take_in(const ColumnRows* outputs, std::uint32_t rows, Nanos now_ns) noexcept;
  /// A loss in [0, 1] that feedback found. True: the alarm went up.
  [[nodiscard]] bool note_loss(double loss, Nanos now_ns) noexcept;

  /// Forgets everything: what comes next is the new reference.
  void reset() noexcept;
  /// Throws std::bad_alloc.
  [[nodiscard]] StatisticsSnapshot snapshot() const;
  /// Alarms that went up since it was last asked, a bit for each DriftKind.
  [[nodiscard]] unsigned take_raised() noexcept {
    return raised_.exchange(0, std::memory_order_acq_rel);
  }

 private:
  static constexpr std::size_t kFirstValues = 512;
  static constexpr std::size_t kLabelPlaces = 2 * StatisticsWindow::kLabels;

  [[nodiscard]] bool may_look() noexcept;
  [[nodiscard]] StatisticsWindow& current(Nanos now_ns) noexcept;
  [[nodiscard]] std::size_t label_place(std::int64_t label) noexcept;
  void take_value(StatisticsWindow& window, double value) noexcept;
  void choose_edges(StatisticsWindow& window) noexcept;
  [[nodiscard]] bool end_if_over(Nanos now_ns) noexcept;
  void begin_window(Nanos now_ns) noexcept;
  [[nodiscard]] bool judge(DriftKind kind, const PopulationShift& shift, Nanos now_ns) noexcept;
  void raise(DriftKind kind, Nanos now_ns) noexcept;
  [[nodiscard]] DriftAlarm& alarm(DriftKind kind) noexcept {
    return alarms_[static_cast<std::size_t>(kind)];
  }

  const OutputReader reader_;
  const StatisticsOptions options_;
  const std::uint32_t rows_of_batch_;
  const std::uint32_t pass_over_;  // batches after one that was looked at
  std::atomic<std::uint32_t> passing_{0};
  std::atomic<unsigned> raised_{0};

  mutable std::mutex mutex_;  // guards what follows
  std::vector<StatisticsWindow> windows_;
  std::uint32_t turn_ = 0;
  std::vector<std::int64_t> labels_;
  std::array<std::uint8_t, kLabelPlaces> label_index_{};  // place in labels_ + 1
  std::vector<double> first_values_;
  ValueBins bins_;
  StatisticsWindow reference_;
  std::uint32_t referred_ = 0;  // windows in the reference
  PageHinkley loss_test_;
  std::array<DriftAlarm, kDriftKinds> alarms_;
};

}  // namespace clipper
