// A directed acyclic graph of models that one query goes through: what each stage takes from which
// other, and under which conditions it runs. A cascade is the simplest that has conditions.
//
//   A stage is due when all its predecessors (whose outputs it takes or looks at) have ended. It
//   runs if none of them failed, all its conditions hold, and each of its inputs has a value: that
//   of the first of its sources that has run. Else it is skipped, and counts as skipped for those
//   behind it.
//   The answer is the output of the first of answers() that has run.
//
// Thread safety: immutable.
// Invariant: stages stand in an order in which each comes after its predecessors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/output_layout.h"
#include "base/tensor.h"
#include "selection/condition.h"

namespace clipper {

struct Source {
  static constexpr std::uint16_t kQuery = 0xffff;  ///< the query's own input

  std::uint16_t stage = kQuery;
  std::uint16_t column = 0;  ///< of that stage's output, or of the query's input

  friend bool operator==(const Source&, const Source&) = default;
};

/// One model's part in a plan, as it is given.
struct StageSpec {
  std::uint16_t model = 0;  ///< its place in the application's list
  RowSpec input;
  RowSpec output;
  /// Of each input column; of several sources the first that has run is taken.
  std::vector<std::vector<Source>> inputs;
  std::vector<Condition> conditions;  ///< all must hold
};

struct PlanSpec {
  RowSpec input;  ///< of the query
  std::vector<StageSpec> stages;
  std::vector<std::uint16_t> answers;  ///< stages, the most wanted first
  /// What an answer is worth; nullopt: every answer is worth 1.
  std::optional<Reading> confidence;
  /// An answer that is there stands whatever happens to later stages; and none is started that
  /// would be too late. Else a stage that fails takes the row with it.
  bool answers_stand = false;
};

class Plan {
 public:
  static constexpr std::size_t kMostStages = 32;
  static constexpr std::uint16_t kNowhere = 0xffff;

  /// A stage, and what follows from the others.
  struct Stage : StageSpec {
    explicit Stage(StageSpec spec) : StageSpec(std::move(spec)), layout(output) {}

    OutputLayout layout;
    std::vector<std::uint16_t> predecessors;
    std::vector<std::uint16_t> successors;
    /// Those that nothing but an end in failure keeps from running.
    std::vector<std::uint16_t> certain_successors;
    bool has_alternatives = false;  ///< some input has several sources
    /// Its outputs are needed after the moment in which they come: as the answer, or by a stage
    /// that may have to wait for another predecessor.
    bool keeps_output = false;
    /// Of each input column that is one of the query's: which input column of the only predecessor
    /// holds the same; kNowhere: none.
    std::vector<std::uint16_t> same_as;

    [[nodiscard]] bool is_root() const noexcept { return predecessors.empty(); }
  };

  /// Throws kInvalidArgument where sources, conditions or answers lead nowhere or do not fit.
  explicit Plan(PlanSpec spec);

  [[nodiscard]] const std::vector<Stage>& stages() const noexcept { return stages_; }
  [[nodiscard]] const std::vector<std::uint16_t>& answers() const noexcept { return answers_; }
  [[nodiscard]] const OutputLayout& input_layout() const noexcept { return input_layout_; }
  [[nodiscard]] const RowSpec& input() const noexcept { return input_; }
  /// Whether some stage takes of the query's input when its rows lie nowhere else any more.
  [[nodiscard]] bool keeps_input() const noexcept { return keeps_input_; }
  [[nodiscard]] bool answers_stand() const noexcept { return answers_stand_; }
  /// Of an answer, in [0, 1].
  [[nodiscard]] float confidence_in(const std::byte* output,
                                    const OutputLayout& layout) const noexcept;

 private:
  void check(const StageSpec& stage, std::size_t place) const;
  void link(std::uint16_t place);
  void find_the_input_in_the_predecessor(Stage& stage);

  const RowSpec input_;
  const OutputLayout input_layout_;
  std::vector<Stage> stages_;
  const std::vector<std::uint16_t> answers_;
  const std::optional<Reading> confidence_;
  const bool answers_stand_;
  bool keeps_input_ = false;
};

}  // namespace clipper
