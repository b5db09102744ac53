// The engine's end of what it shares with one worker process: where batches are described, where
// outputs come back, and a doorbell each way.
//
// Inputs are not copied: the worker has the memory of the deployment's rows mapped, read-only.
// Ragged rows that lie on the heap are copied into a segment of their slot, which is counted.
// Outputs lie where the engine says, so the worker cannot point it anywhere; of what it writes the
// engine reads every word once and checks it. Offsets and text are copied before they are checked,
// because the worker may go on writing.
//
// Batches are numbered from 1, posted and finished in order; batch n has slot n mod kLinkSlots.
//
// Thread safety: one thread's, but for counters and descriptors.
// Invariant: taken() <= posted() <= taken() + kLinkSlots.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "base/sealed_memory.h"
#include "isolation/control_words.h"
#include "queue/block_layout.h"
#include "serving/deployment.h"

namespace clipper {

struct LinkOptions {
  /// Bytes for the values of ragged outputs of one batch, all of them together.
  std::size_t ragged_output_bytes = std::size_t{256} << 20;
  /// Which output columns are text: it must be UTF-8. One entry a column, or none.
  std::vector<bool> text_outputs;
};

enum class Reply : std::uint8_t {
  kNone,        ///< not yet
  kOutputs,     ///< they are valid until the batch after the next is posted
  kModelError,  ///< see text()
  kNonsense,    ///< the worker broke the protocol, see text(): end it
};

class WorkerLink {
 public:
  static constexpr std::size_t kTextBytes = std::size_t{64} << 10;

  /// Throws kOutOfMemory.
  WorkerLink(Deployment& deployment, const LinkOptions& options);

  /// Passes rows on and rings. False: they lie on the heap, and are too large to be copied.
  /// REQUIRES: fewer than kLinkSlots in flight; the rows stay until the batch is taken.
  [[nodiscard]] bool post(const RowRun& run) noexcept;
  /// The oldest batch in flight, which has `rows` rows, if it is finished.
  [[nodiscard]] Reply take(std::uint32_t rows);
  /// Asks the worker to end after what was posted.
  void close() noexcept;

  /// After kOutputs: one per column.
  [[nodiscard]] const ColumnRows* outputs() const noexcept { return outputs_.data(); }
  /// After kModelError what the worker wrote, after kNonsense what is wrong.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  [[nodiscard]] std::uint64_t posted() const noexcept { return posted_; }
  [[nodiscard]] std::uint64_t taken() const noexcept { return taken_; }
  /// The batch that the worker says it runs; the oldest in flight if that cannot be.
  [[nodiscard]] std::uint64_t running() const noexcept;

  /// Rung by the worker.
  [[nodiscard]] EventFd& finished_bell() noexcept { return finished_bell_; }

  // What the worker must be given.

  /// In the order of docs/worker-protocol.md.
  [[nodiscard]] std::vector<int> descriptors() const;
  [[nodiscard]] std::vector<std::uint64_t> segment_bytes() const;
  [[nodiscard]] const BlockLayout& output_layout() const noexcept { return output_layout_; }
  /// Where an error's text may lie within an output segment.
  [[nodiscard]] std::size_t text_at() const noexcept { return text_at_; }
  [[nodiscard]] bool has_copies() const noexcept { return copies_[0] != nullptr; }

  std::atomic<std::uint64_t> batches_copied{0};  ///< whose rows lay on the heap
  std::atomic<std::uint64_t> bytes_copied{0};

 private:
  [[nodiscard]] ControlWords& control() const noexcept {
    return *reinterpret_cast<ControlWords*>(control_.data());
  }
  void describe(SlotWords& slot, const RowRun& run, const std::byte* begin) noexcept;
  [[nodiscard]] bool copy(SlotWords& slot, const RowRun& run, const SealedMemory& into) noexcept;
  [[nodiscard]] bool read_outputs(std::byte* segment, std::uint32_t rows);
  [[nodiscard]] bool read_ragged(std::byte* segment, std::size_t column, std::uint32_t rows);
  [[nodiscard]] bool check_text(std::size_t column, std::uint32_t rows);
  [[nodiscard]] Reply nonsense(std::string what);

  Deployment& deployment_;
  const std::vector<bool> text_outputs_;
  const BlockLayout output_layout_;
  const std::size_t text_at_;
  const SealedMemory control_;
  std::array<std::unique_ptr<SealedMemory>, kLinkSlots> output_segments_;
  std::array<std::unique_ptr<SealedMemory>, kLinkSlots> copies_;  // for ragged rows only
  std::array<std::size_t, kLinkSlots> copied_bytes_{};
  EventFd posted_bell_;
  EventFd finished_bell_;

  // The engine's own count: what stands in shared memory is for the worker only.
  std::uint64_t posted_ = 0;
  std::uint64_t taken_ = 0;
  std::array<ColumnRows, kMaxColumns> outputs_{};
  std::array<std::vector<std::int64_t>, kMaxColumns> offsets_;
  std::array<std::vector<std::byte>, kMaxColumns> texts_;
  std::string text_;
};

}  // namespace clipper
