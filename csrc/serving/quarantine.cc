#include "serving/quarantine.h"

#include <algorithm>
#include <array>

namespace clipper {

Hash128 Quarantine::name_of(const RowRun& run) const noexcept {
  std::array<ColumnRows, kMaxColumns> source{};
  const BlockLayout& layout = *run.block->layout;
  for (std::size_t c = 0; c < layout.columns().size(); ++c) {
    source[c].data = layout.row(run.block->data, c, 0);
    if (layout.columns()[c].ragged) source[c].offsets = layout.offsets(run.block->data, c);
  }
  return hasher_(source.data(), run.first);
}

Screened Quarantine::screen(const ColumnRows* source, std::uint32_t first,
                            std::uint32_t rows) const {
  for (std::uint32_t i = 0; i < rows; ++i) {
    const Hash128 input = hasher_(source, first + i);
    const std::scoped_lock lock(mutex_);
    const auto found = records_.find(input);
    if (found == records_.end()) continue;
    if (i > 0) return {Suspicion::kNone, i, 0};  // those before it
    const Record& record = found->second;
    return {record.is_refused ? Suspicion::kRefused : Suspicion::kSuspect, 1, record.error_id};
  }
  return {Suspicion::kNone, rows, 0};
}

Suspicion Quarantine::note_death(const Hash128& input, bool alone, std::uint32_t error_id) {
  const std::scoped_lock lock(mutex_);
  const auto [place, is_new] = records_.try_emplace(input);
  Record& record = place->second;
  ++record.deaths;
  record.is_refused = record.is_refused || (alone && record.deaths >= 2);
  record.error_id = error_id;
  if (is_new) {
    in_order_.push_back(input);
    while (in_order_.size() > kMost) {
      records_.erase(in_order_.front());
      in_order_.pop_front();
    }
  }
  size_.store(records_.size(), std::memory_order_release);
  return record.is_refused ? Suspicion::kRefused : Suspicion::kSuspect;
}

void Quarantine::acquit(const Hash128& input) {
  const std::scoped_lock lock(mutex_);
  const auto found = records_.find(input);
  if (found == records_.end() || found->second.is_refused) return;
  records_.erase(found);
  std::erase(in_order_, input);
  size_.store(records_.size(), std::memory_order_release);
}

std::vector<Hash128> Quarantine::refused() const {
  const std::scoped_lock lock(mutex_);
  std::vector<Hash128> found;
  for (const auto& [input, record] : records_) {
    if (record.is_refused) found.push_back(input);
  }
  return found;
}

}  // namespace clipper
