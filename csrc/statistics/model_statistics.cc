#include "statistics/model_statistics.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "base/hash.h"

namespace clipper {

void StatisticsWindow::add_value(double value) noexcept {
  if (!std::isfinite(value)) return;
  ++finite;
  const double distance = value - mean;  // Welford's way: exact where sums of squares cancel
  mean += distance / static_cast<double>(finite);
  squares += distance * (value - mean);
  least = std::min(least, value);
  most = std::max(most, value);
}

void StatisticsWindow::add_counts(const StatisticsWindow& other) noexcept {
  rows += other.rows;
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] += other.labels[i];
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += other.values[i];
}

ModelStatistics::ModelStatistics(const RowSpec& output, const StatisticsOptions& options)
    : reader_(output),
      options_(options),
      rows_of_batch_(static_cast<std::uint32_t>(
          std::clamp<std::size_t>(kNumbersOfBatch / reader_.width(), 1, kRowsOfBatch))),
      pass_over_(static_cast<std::uint32_t>((reader_.width() - 1) / kNumbersOfBatch)) {
  windows_.reserve(std::size_t{options.windows} + 1);
  labels_.reserve(StatisticsWindow::kLabels);
  if (reader_.has_values()) {
    first_values_.reserve(std::min<std::uint64_t>(kFirstValues, options.window_rows));
  }
}

// ---- sampling -----------------------------------------------------------------------------------

bool ModelStatistics::may_look() noexcept {
  if (reader_.kind() == OutputKind::kNothing) return false;
  if (pass_over_ == 0) return true;
  // Two batches at once may count one: it need not be exact.
  const std::uint32_t passing = passing_.load(std::memory_order_relaxed);
  passing_.store(passing == 0 ? pass_over_ : passing - 1, std::memory_order_relaxed);
  return passing == 0;
}

bool ModelStatistics::take_in(const ColumnRows* outputs, std::uint32_t rows,
                              Nanos now_ns) noexcept {
  if (rows == 0 || !may_look()) return false;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  StatisticsWindow& window = current(now_ns);
  // Every step-th row, from another one on each time: no place in a batch is left out for good.
  const std::uint32_t step = (rows + rows_of_batch_ - 1) / rows_of_batch_;
  for (std::uint32_t row = turn_++ % step; row < rows; row += step) {
    const OutputReader::Read read = reader_.read(outputs, row);
    ++window.rows;
    if (reader_.has_labels()) ++window.labels[label_place(read.label)];
    if (reader_.has_values()) take_value(window, read.value);
  }
  window.ended_ns = now_ns;
  return end_if_over(now_ns);
}

StatisticsWindow& ModelStatistics::current(Nanos now_ns) noexcept {
  if (windows_.empty()) begin_window(now_ns);
  return windows_.back();
}

/// The first labels that come have places; all others share one.
std::size_t ModelStatistics::label_place(std::int64_t label) noexcept {
  std::size_t at = mix_bits(static_cast<std::uint64_t>(label)) % kLabelPlaces;
  for (; label_index_[at] != 0; at = (at + 1) % kLabelPlaces) {
    if (labels_[label_index_[at] - 1U] == label) return label_index_[at] - 1U;
  }
  if (labels_.size() == StatisticsWindow::kLabels) return StatisticsWindow::kLabels;
  labels_.push_back(label);  // there is room: reserved
  label_index_[at] = static_cast<std::uint8_t>(labels_.size());
  return labels_.size() - 1;
}

void ModelStatistics::take_value(StatisticsWindow& window, double value) noexcept {
  window.add_value(value);
  if (bins_.has_edges()) {
    ++window.values[bins_.cell_of(value)];
    return;
  }
  first_values_.push_back(value);  // there is room: reserved
  if (first_values_.size() == first_values_.capacity()) choose_edges(window);
}

void ModelStatistics::choose_edges(StatisticsWindow& window) noexcept {
  try {
    bins_.learn(first_values_);
  } catch (const std::bad_alloc&) {
    first_values_.clear();  // those that come next will do as well
    return;
  }
  for (const double value : first_values_) ++window.values[bins_.cell_of(value)];
  first_values_.clear();
}

// ---- windows ------------------------------------------------------------------------------------

void ModelStatistics::begin_window(Nanos now_ns) noexcept {
  if (windows_.size() > options_.windows) windows_.erase(windows_.begin());
  windows_.emplace_back().begun_ns = now_ns;  // there is room: reserved
}

bool ModelStatistics::end_if_over(Nanos now_ns) noexcept {
  const StatisticsWindow& window = windows_.back();
  const std::uint64_t seen = reader_.kind() == OutputKind::kNothing ? window.losses : window.rows;
  if (seen < options_.window_rows || now_ns - window.begun_ns < options_.window_ns) {
    return false;
  }
  bool went_up = false;
  if (referred_ < options_.reference_windows) {
    reference_.add_counts(window);
    ++referred_;
  } else {
    if (reader_.has_labels()) {
      went_up |=
          judge(DriftKind::kLabels, population_shift(reference_.labels, window.labels), now_ns);
    }
    if (reader_.has_values()) {
      went_up |=
          judge(DriftKind::kValues, population_shift(reference_.values, window.values), now_ns);
    }
  }
  begin_window(now_ns);
  return went_up;
}

bool ModelStatistics::judge(DriftKind kind, const PopulationShift& shift, Nanos now_ns) noexcept {
  DriftAlarm& state = alarm(kind);
  state.last = shift;
  if (state.is_up) {
    state.is_up = !shift.is_settled();
    return false;
  }
  if (shift.is_shift()) raise(kind, now_ns);
  return state.is_up;
}

void ModelStatistics::raise(DriftKind kind, Nanos now_ns) noexcept {
  DriftAlarm& state = alarm(kind);
  state.is_up = true;
  state.since_ns = now_ns;
  ++state.raised;
  raised_.fetch_or(1U << static_cast<unsigned>(kind), std::memory_order_acq_rel);
}

bool ModelStatistics::note_loss(double loss, Nanos now_ns) noexcept {
  if (!(loss >= 0.0 && loss <= 1.0)) return false;
  const std::scoped_lock lock(mutex_);
  StatisticsWindow& window = current(now_ns);
  ++window.losses;
  window.loss_sum += loss;
  window.ended_ns = now_ns;
  if (reader_.kind() == OutputKind::kNothing) (void)end_if_over(now_ns);
  if (!loss_test_.add(loss)) return false;
  raise(DriftKind::kLoss, now_ns);
  return true;
}

// ---- on demand ----------------------------------------------------------------------------------

void ModelStatistics::reset() noexcept {
  const std::scoped_lock lock(mutex_);
  windows_.clear();
  labels_.clear();
  label_index_ = {};
  first_values_.clear();
  bins_.clear();
  reference_ = {};
  referred_ = 0;
  loss_test_.reset();
  for (DriftAlarm& state : alarms_) state = {false, 0, state.raised, {}};
  raised_.store(0, std::memory_order_release);
}

StatisticsSnapshot ModelStatistics::snapshot() const {
  StatisticsSnapshot seen;
  seen.kind = reader_.kind();
  seen.column = reader_.column();
  seen.is_unsigned = reader_.is_unsigned();
  const std::scoped_lock lock(mutex_);
  seen.labels = labels_;
  seen.edges = bins_.edges();
  seen.windows = windows_;
  seen.reference_windows = referred_;
  seen.has_reference = referred_ == options_.reference_windows;
  seen.reference = reference_;
  seen.losses = loss_test_.count();
  seen.mean_loss = loss_test_.mean();
  seen.alarms = alarms_;
  return seen;
}

}  // namespace clipper
