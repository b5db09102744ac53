// The interface of all selection policies: which models to ask, what to make of their answers, and
// what to learn from feedback.
//
// A policy is immutable. What it learns lies in the state that it is handed: numbers of one context
// of one application, or of the application itself. Models are named by their place in the
// application's list.
//
// Thread safety: every method may be called from any thread at once, with the same state: updates
// are atomic, and a reader may see some of the numbers before an update and some after it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "base/errors.h"
#include "base/output_layout.h"

namespace clipper {

/// What a policy has learned: state_words() numbers, all accesses relaxed.
using PolicyState = std::span<std::atomic<double>>;

/// No application links more.
inline constexpr std::uint16_t kMaxModels = 32;

/// What a policy may know about a query when it chooses.
struct SelectionInput {
  std::uint16_t models = 1;   ///< how many are linked
  std::uint64_t context = 0;  ///< hash of the caller's context
  bool has_context = false;
  std::uint64_t random = 0;  ///< fresh random bits for this query
  /// Under load: ask no more than so many, the ones it trusts most. >= 1.
  std::uint16_t most = std::numeric_limits<std::uint16_t>::max();
};

/// A model to ask, and how probable it was that it would be.
struct Choice {
  std::uint16_t model = 0;
  float propensity = 1.0F;
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

/// What feedback says of one model that was asked.
struct Observation {
  std::uint16_t model = 0;
  float loss = 0.0F;        ///< in [0, 1]
  float propensity = 1.0F;  ///< of the choice that asked it
};

/// How one model that was asked served a query, feedback or not.
struct Service {
  std::uint16_t model = 0;
  Cause cause = Cause::kNone;  ///< of the first row; kNone: it answered
  bool in_time = false;        ///< its answer was there by the deadline
  float propensity = 1.0F;     ///< of the choice that asked it
};

/// What a policy makes of one model now. For operators: nothing is decided by it.
struct Standing {
  double share = 1.0;   ///< of queries that ask it, in [0, 1]
  double weight = 0.0;  ///< of its answer, or of it among the others; they sum to 1, or are all 0
  double loss = 0.0;    ///< mean, in [0, 1]; means nothing where `count` is 0
  double count = 0.0;   ///< what the loss is the mean of
};

class Policy {
 public:
  virtual ~Policy() = default;

  /// How many numbers it learns for an application of so many models; 0: it learns nothing.
  [[nodiscard]] virtual std::size_t state_words(std::uint16_t /*models*/) const noexcept {
    return 0;
  }
  /// Makes the state of somebody of whom nothing is known.
  virtual void begin(PolicyState state) const noexcept {
    for (std::atomic<double>& number : state) number.store(0.0, std::memory_order_relaxed);
  }

  /// Writes the chosen models to `chosen`, which has room for all of them, and returns how many:
  /// >= 1.
  [[nodiscard]] virtual std::size_t select(const SelectionInput& input, PolicyState state,
                                           std::span<Choice> chosen) const noexcept = 0;

  /// Makes one row out of any subset of answers: names one of them, or writes `output`, which is
  /// prepared.
  [[nodiscard]] virtual Combined combine(std::span<const Answer> answers, PolicyState state,
                                         const OutputLayout& layout,
                                         std::byte* output) const noexcept = 0;

  /// Learns from feedback on one row: one observation for each model whose answer is known.
  virtual void observe(std::span<const Observation> /*observations*/,
                       PolicyState /*state*/) const noexcept {}

  /// Learns from how the models serve. Called once for every query, when it is collected. A model
  /// that failed gave no answer, so no feedback on the same query observes it: nothing counts
  /// twice. True: something came of it of which an operator should hear, now and not again.
  [[nodiscard]] virtual bool watch(std::span<const Service> /*services*/,
                                   PolicyState /*state*/) const noexcept {
    return false;
  }
  /// Whether watch() does anything.
  [[nodiscard]] virtual bool watches() const noexcept { return false; }
  /// Whether each context has numbers of its own; else all queries share the application's.
  [[nodiscard]] virtual bool learns_by_context() const noexcept { return true; }
  /// Whether it can do with fewer models than it would like to ask.
  [[nodiscard]] virtual bool asks_several() const noexcept { return false; }

  /// Describes the state, one standing a model.
  virtual void describe(PolicyState /*state*/, std::span<Standing> /*standings*/) const noexcept {}
};

}  // namespace clipper
