// What became of an application's feedback, counted.
//
// Thread safety: all of it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace clipper {

/// What became of feedback on one row. The numbers are part of the wire protocol: never renumber.
enum class FeedbackStatus : std::uint8_t {
  kApplied = 0,       ///< the policy has learned from it, or will when its context's state is there
  kDuplicate = 1,     ///< the row has had its feedback
  kExpired = 2,       ///< the row is no longer known, for want of memory or after too long
  kUnknown = 3,       ///< no such query was ever answered here
  kForeign = 4,       ///< the query was another application's
  kUnattributed = 5,  ///< no model's output could be judged by it; the row waits for better
  kRefused = 6,  ///< no memory for what the row's context would learn; the row may be said again
  kUnsaved = 7,  ///< as kApplied, but it could not be written down: it does not last yet
};

inline constexpr std::size_t kFeedbackStatuses = 8;

/// How often one model was judged, and how wrong it was in all.
struct ModelTally {
  std::atomic<std::uint64_t> judged{0};
  std::atomic<double> loss{0.0};
};

struct FeedbackTally {
  static constexpr std::size_t kModels = 32;

  std::array<std::atomic<std::uint64_t>, kFeedbackStatuses> rows_by_status{};
  std::array<ModelTally, kModels> models;  // by place in the application

  void count(FeedbackStatus status) noexcept {
    rows_by_status[static_cast<std::size_t>(status)].fetch_add(1, std::memory_order_relaxed);
  }
  /// Rows that were counted turn out to be something else.
  void recount(FeedbackStatus from, FeedbackStatus to, std::uint64_t rows = 1) noexcept {
    rows_by_status[static_cast<std::size_t>(from)].fetch_sub(rows, std::memory_order_relaxed);
    rows_by_status[static_cast<std::size_t>(to)].fetch_add(rows, std::memory_order_relaxed);
  }
  void note_loss(std::uint16_t model, float loss) noexcept {
    models[model].judged.fetch_add(1, std::memory_order_relaxed);
    models[model].loss.fetch_add(static_cast<double>(loss), std::memory_order_relaxed);
  }
};

}  // namespace clipper
