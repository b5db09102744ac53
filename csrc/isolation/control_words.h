// The words that an engine and a worker exchange for each batch: docs/worker-protocol.md, byte by
// byte. Little-endian. What the worker writes is read once, and checked before it is used.
//
// Thread safety: each word has one writer; a word with a sequence number is published by the
// doorbell that follows it.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace clipper {

static_assert(std::endian::native == std::endian::little, "the words are little-endian");
static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
                  sizeof(std::atomic<std::uint64_t>) == 8 &&
                  sizeof(std::atomic<std::uint32_t>) == 4,
              "the words are seen by another process");

inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::array<char, 8> kControlMagic{'C', 'L', 'P', 'C', 'T', 'R', 'L', '\0'};

/// How many batches may be in flight.
inline constexpr std::uint32_t kLinkSlots = 2;

/// Where a batch's rows lie.
enum class Segment : std::uint32_t { kRows = 0, kStaging = 1, kCopy = 2 };

enum class ReplyStatus : std::uint32_t { kOutputs = 0, kModelError = 1 };

/// Bytes from the start of the batch's segment.
struct InputPlace {
  std::uint64_t data_at = 0;     ///< of the first row; of a ragged tensor, of item 0 of the offsets
  std::uint64_t offsets_at = 0;  ///< ragged: of rows + 1 offsets, in items after data_at
};

struct SlotWords {
  // Written by the engine before it posts.
  std::uint64_t sequence;
  std::uint32_t rows;
  std::uint32_t segment;
  std::uint64_t unused[6];
  InputPlace inputs[kMaxColumns];
  // Written by the worker before it finishes.
  std::atomic<std::uint64_t> reply_sequence;
  std::atomic<std::uint32_t> status;
  std::atomic<std::uint32_t> reply_rows;
  std::atomic<std::uint64_t> text_bytes;
  std::uint64_t reply_unused[5];
};

struct ControlWords {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t slots;
  std::uint64_t unused[6];
  // Written by the engine.
  std::atomic<std::uint64_t> posted;   ///< the last batch that was posted; 0: none yet
  std::atomic<std::uint64_t> closing;  ///< not 0: end after the batches that were posted
  std::uint64_t engine_unused[6];
  // Written by the worker.
  std::atomic<std::uint64_t> finished;  ///< the last batch that was finished
  std::atomic<std::uint64_t> running;   ///< the one that runs, or ran last
  std::uint64_t worker_unused[6];
  SlotWords slot[kLinkSlots];
};

static_assert(sizeof(SlotWords) == 640 && offsetof(SlotWords, inputs) == 64 &&
              offsetof(SlotWords, reply_sequence) == 576);
static_assert(offsetof(ControlWords, posted) == 64 && offsetof(ControlWords, finished) == 128 &&
              offsetof(ControlWords, slot) == 192 && sizeof(ControlWords) == 192 + 2 * 640);

}  // namespace clipper
