// The interface of all selection policies: which models to ask, what to make of their answers, and
// what to learn from feedback.
//
// Thread safety: every method may be called from any thread at once; a policy that learns keeps its
// state in atomics or in the context's state that it is handed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/output_layout.h"

namespace clipper {

/// What a policy may know about a query when it chooses. Models are named by their place in the
/// application's list.
struct SelectionInput {
  std::uint16_t models = 1;   ///< how many are linked
  std::uint64_t context = 0;  ///< hash of the caller's context
  bool has_context = false;
  std::uint64_t random = 0;  ///< fresh random bits for this query
};

/// One asked model's answer for one row.
struct Answer {
  std::uint16_t model = 0;
  const std::byte* output = nullptr;  ///< nullptr: it has not arrived, or has failed
};

struct Combined {
  static constexpr std::size_t kWritten = static_cast<std::size_t>(-1);

  bool answered = false;    ///< false: no answer could be made of what there is
  std::size_t winner = 0;   ///< the place of the answer to give as it is; kWritten: none of them
  float confidence = 0.0F;  ///< weighted share of agreement, in [0, 1]
};

struct Observation {
  std::uint64_t context = 0;
  bool has_context = false;
  std::uint16_t model = 0;
  float loss = 0.0F;  ///< in [0, 1]
};

class Policy {
 public:
  virtual ~Policy() = default;

  /// Writes the chosen models to `chosen`, which has room for all of them, and returns how many:
  /// >= 1.
  [[nodiscard]] virtual std::size_t select(const SelectionInput& input,
                                           std::span<std::uint16_t> chosen) noexcept = 0;

  /// Makes one row out of any subset of answers: names one of them, or writes `output`, which is
  /// prepared.
  [[nodiscard]] virtual Combined combine(std::span<const Answer> answers,
                                         const OutputLayout& layout,
                                         std::byte* output) const noexcept = 0;

  virtual void observe(const Observation& /*observation*/) noexcept {}
};

}  // namespace clipper
