// From what a caller says of answered rows to what the policy observes: finds the row, judges each
// model's output, lets the policy learn, once a row.
//
// Thread safety: all of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "selection/loss.h"
#include "selection/policy.h"
#include "serving/application.h"
#include "serving/join_records.h"
#include "serving/query.h"

namespace clipper {

/// What is said of some rows, one entry each; exactly one of the members.
struct Said {
  Labels labels;                        ///< what is right: every model's output is judged by it
  const float* losses = nullptr;        ///< of the answer that was given, in [0, 1]
  const float* model_losses = nullptr;  ///< of each model asked, kMaxAsks a row, in [0, 1]
};

/// What the models of some rows were judged to have lost, for a policy that learns elsewhere: the
/// rows that were applied, in their order.
struct Learned {
  struct Row {
    std::uint64_t context = 0;
    bool has_context = false;
    std::uint32_t first = 0;  ///< of its observations
    std::uint32_t count = 0;
  };
  /// Room for all that feedback on so many rows may say. Throws std::bad_alloc.
  void reserve(std::size_t most_rows, std::size_t models) {
    rows.reserve(most_rows);
    observations.reserve(most_rows * models);
  }

  std::vector<Row> rows;
  std::vector<Observation> observations;
};

/// One row of an answered query.
struct AnsweredRow {
  std::uint64_t ticket = JoinRecords::kNoTicket;
  std::uint32_t row = 0;
};

/// Copies of all models' outputs for one row, in memory of their own.
class OutputCopies {
 public:
  OutputCopies() = default;
  ~OutputCopies() { clear(); }
  OutputCopies(const OutputCopies&) = delete;
  OutputCopies& operator=(const OutputCopies&) = delete;

  [[nodiscard]] std::uint16_t asks() const noexcept { return asks_; }
  /// nullptr: the model asked had no answer.
  [[nodiscard]] std::byte* output(std::uint16_t ask) noexcept {
    return (answered_ >> ask & 1u) == 0 ? nullptr : memory_.get() + ask * layout_->row_bytes();
  }
  [[nodiscard]] const OutputLayout* layout() const noexcept { return layout_; }

 private:
  friend class Feedback;
  /// False: no memory.
  [[nodiscard]] bool take(JoinRecord& record, std::uint32_t row) noexcept;
  void clear() noexcept;

  const OutputLayout* layout_ = nullptr;
  std::unique_ptr<std::byte[]> memory_;
  std::uint32_t answered_ = 0;
  std::uint16_t asks_ = 0;
};

class Feedback {
 public:
  Feedback(const Clock& clock, const JoinRecords::Options& options)
      : clock_(clock), records_(options) {}

  [[nodiscard]] JoinRecords& records() noexcept { return records_; }

  /// Takes what is said of `rows`, entry i of it of row i, and counts and writes what became of it.
  /// REQUIRES: tickets that records() gave; `learned`, if any, has room.
  void take(Application& application, std::span<const AnsweredRow> rows, const Said& said,
            FeedbackStatus* statuses, Learned* learned = nullptr) noexcept;
  /// The same once more, of the rows that were refused. `statuses` has what take() wrote.
  void take_refused(Application& application, std::span<const AnsweredRow> rows, const Said& said,
                    FeedbackStatus* statuses) noexcept;

  /// For losses that are computed elsewhere: copies the outputs of one row. kApplied: they are
  /// there, for take() with model_losses; anything else is what take() would answer.
  [[nodiscard]] FeedbackStatus look(Application& application, AnsweredRow row,
                                    OutputCopies& copies) noexcept;

  /// Takes what is said of the rows of a query that asked every model only for that, and counts and
  /// writes what became of it. REQUIRES: Engine::collect_answers(query); `learned` has room.
  static void take_answers(Application& application, Query& query, const Said& said,
                           FeedbackStatus* statuses, Learned* learned = nullptr) noexcept;

 private:
  [[nodiscard]] FeedbackStatus take_one(Application& application, AnsweredRow at, const Said& said,
                                        std::uint32_t place, Nanos now_ns,
                                        Learned* learned) noexcept;
  [[nodiscard]] RecordPin find(Application& application, AnsweredRow at, Nanos now_ns,
                               FeedbackStatus& status) noexcept;

  const Clock& clock_;
  JoinRecords records_;
};

}  // namespace clipper
