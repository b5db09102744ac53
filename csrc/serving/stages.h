// How far a query has come on its way through the stages of a plan.
//
// Of each stage and row one byte says how many predecessors have not ended yet, and then that it is
// decided: started, refused or skipped. Exactly one thread decides: whoever ends the last
// predecessor, while it still has the right to write that predecessor's answer. So the owner, who
// seals all asks first, finds out whose rows were never decided.
//
// Thread safety: as each member says.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/tensor.h"
#include "selection/plan.h"
#include "serving/query.h"

namespace clipper {

class Stages {
 public:
  /// REQUIRES: exclusive access. Throws std::bad_alloc.
  void open(const Plan& plan, std::uint32_t rows, bool bypass_cache = false);
  void clear() noexcept;

  /// Whether this query is not answered from caches. Constant while it is open.
  [[nodiscard]] bool bypasses_cache() const noexcept { return bypasses_cache_; }

  /// Copies the query's input. False: there was no memory for it. Before anything is started.
  [[nodiscard]] bool keep_input(const Plan& plan, const ColumnRows* columns) noexcept {
    return plan.input_layout().write(input_.data(), columns, 0, rows_);
  }
  [[nodiscard]] const std::byte* input() noexcept { return input_.data(); }

  /// A predecessor of the stage has ended for this row. True: it was the last of several.
  [[nodiscard]] bool note_ended_predecessor(std::uint16_t stage, std::uint32_t row) noexcept {
    // Releases what this thread has written, and acquires what the others have.
    return progress(stage, row).fetch_sub(1, std::memory_order_acq_rel) == 1;
  }
  /// Whoever decides, once.
  void note_decided(std::uint16_t stage, std::uint32_t row, std::uint32_t rows) noexcept {
    for (std::uint32_t end = row + rows; row < end; ++row) {
      progress(stage, row).store(kDecided, std::memory_order_relaxed);
    }
  }
  /// Owner, once all asks are sealed.
  [[nodiscard]] bool is_decided(std::uint16_t stage, std::uint32_t row) noexcept {
    return progress(stage, row).load(std::memory_order_relaxed) == kDecided;
  }

  /// Rows of the stage wait for a driver. Any thread.
  void note_started(std::uint16_t stage) noexcept {
    started_.fetch_or(1u << stage, std::memory_order_release);
  }
  /// A bit for each stage whose rows ever waited. Any thread.
  [[nodiscard]] std::uint32_t started() const noexcept {
    return started_.load(std::memory_order_acquire);
  }
  /// True once for each stage: who waits leads a batch of it at most once. Any thread.
  [[nodiscard]] bool may_lead(std::uint16_t stage) noexcept {
    const std::uint32_t bit = 1u << stage;
    return (led_.fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
  }

 private:
  using Progress = std::atomic<std::uint8_t>;
  static constexpr std::uint8_t kDecided = 0xff;  // more than there can be predecessors
  static constexpr std::size_t kKeptBytes = 256;

  [[nodiscard]] Progress& progress(std::uint16_t stage, std::uint32_t row) noexcept {
    return progress_[std::size_t{stage} * rows_ + row];
  }

  std::uint32_t rows_ = 0;
  bool bypasses_cache_ = false;
  std::size_t room_ = 0;
  std::unique_ptr<Progress[]> progress_;
  OutputRows input_;  // only where the plan keeps it
  std::atomic<std::uint32_t> started_{0};
  std::atomic<std::uint32_t> led_{0};
};

}  // namespace clipper
