#include "selection/plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/errors.h"

namespace clipper {
namespace {

[[noreturn]] void refuse(std::size_t place, const char* why) {
  throw Error(ErrorCode::kInvalidArgument, "stage " + std::to_string(place) + ": " + why);
}

void add_once(std::vector<std::uint16_t>& places, std::uint16_t place) {
  if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
}

}  // namespace

Plan::Plan(PlanSpec spec)
    : input_(std::move(spec.input)),
      input_layout_(input_),
      answers_(std::move(spec.answers)),
      confidence_(std::move(spec.confidence)),
      answers_stand_(spec.answers_stand) {
  if (spec.stages.empty() || spec.stages.size() > kMostStages) {
    throw Error(ErrorCode::kInvalidArgument, "a plan has 1 to " + std::to_string(kMostStages) +
                                                 " stages, not " +
                                                 std::to_string(spec.stages.size()));
  }
  for (StageSpec& stage : spec.stages) {
    check(stage, stages_.size());
    stages_.emplace_back(std::move(stage));
    link(static_cast<std::uint16_t>(stages_.size() - 1));
  }
  if (answers_.empty()) throw Error(ErrorCode::kInvalidArgument, "a plan needs an answer");
  for (const std::uint16_t answer : answers_) {
    if (answer >= stages_.size()) refuse(answer, "there is no such stage to answer");
    if (stages_[answer].output != stages_[answers_[0]].output) {
      refuse(answer, "its output differs from that of another answer");
    }
    stages_[answer].keeps_output = true;
    if (confidence_ &&
        (confidence_->column >= stages_[answer].output.columns.size() ||
         stages_[answer].output.columns[confidence_->column] != confidence_->tensor)) {
      refuse(answer, "it has no such output to read a confidence off");
    }
  }
  if (confidence_) confidence_->check();
}

// Sources are earlier stages only, so that no check for cycles is needed.
void Plan::check(const StageSpec& stage, std::size_t place) const {
  if (stage.inputs.size() != stage.input.columns.size()) refuse(place, "an input has no source");
  for (std::size_t c = 0; c < stage.inputs.size(); ++c) {
    if (stage.inputs[c].empty()) refuse(place, "an input has no source");
    for (const Source& source : stage.inputs[c]) {
      if (source.stage != Source::kQuery && source.stage >= place) {
        refuse(place, "it takes from a stage that does not come before it");
      }
      const RowSpec& from = source.stage == Source::kQuery ? input_ : stages_[source.stage].output;
      if (source.column >= from.columns.size() ||
          from.columns[source.column] != stage.input.columns[c]) {
        refuse(place, "an input and its source do not fit");
      }
    }
  }
  for (const Condition& condition : stage.conditions) {
    if (condition.stage >= place) refuse(place, "a condition is on a stage that comes later");
    const RowSpec& looked_at = stages_[condition.stage].output;
    if (condition.reading.column >= looked_at.columns.size() ||
        looked_at.columns[condition.reading.column] != condition.reading.tensor) {
      refuse(place, "a condition and the output that it looks at do not fit");
    }
    condition.check();
  }
}

void Plan::link(std::uint16_t place) {
  Stage& stage = stages_[place];
  for (const auto& sources : stage.inputs) {
    stage.has_alternatives = stage.has_alternatives || sources.size() > 1;
    for (const Source& source : sources) {
      if (source.stage != Source::kQuery) add_once(stage.predecessors, source.stage);
    }
  }
  for (const Condition& condition : stage.conditions) {
    add_once(stage.predecessors, condition.stage);
  }
  for (const std::uint16_t predecessor : stage.predecessors) {
    Stage& before = stages_[predecessor];
    before.successors.push_back(place);
    if (stage.conditions.empty()) before.certain_successors.push_back(place);
    if (stage.predecessors.size() > 1 || stage.has_alternatives) before.keeps_output = true;
  }
  if (!stage.is_root()) find_the_input_in_the_predecessor(stage);
}

// A stage that one predecessor alone lets run is started while the rows of that one still lie where
// its batch was read: what it takes of the query's input need not be kept if it lies there too.
void Plan::find_the_input_in_the_predecessor(Stage& stage) {
  stage.same_as.assign(stage.inputs.size(), kNowhere);
  const bool is_started_by_one = stage.predecessors.size() == 1 && !stage.has_alternatives;
  for (std::size_t c = 0; c < stage.inputs.size(); ++c) {
    for (const Source& source : stage.inputs[c]) {
      if (source.stage != Source::kQuery) continue;
      const auto& before = stages_[stage.predecessors[0]].inputs;
      for (std::size_t there = 0; is_started_by_one && there < before.size(); ++there) {
        if (before[there].size() == 1 && before[there][0] == source) {
          stage.same_as[c] = static_cast<std::uint16_t>(there);
        }
      }
      keeps_input_ = keeps_input_ || stage.same_as[c] == kNowhere;
    }
  }
}

float Plan::confidence_in(const std::byte* output, const OutputLayout& layout) const noexcept {
  if (!confidence_) return 1.0F;
  const OutputLayout::Column& column = layout.columns()[confidence_->column];
  const std::byte* data = output + column.offset;
  std::size_t elements = confidence_->tensor.elements();
  if (column.ragged) {
    const RaggedCell& cell = OutputLayout::cell(output, column);
    data = cell.data;
    elements *= static_cast<std::size_t>(cell.items);
  }
  const long double read = confidence_->read(data, elements);
  return read > 0 ? static_cast<float>(std::min(read, 1.0L)) : 0.0F;
}

}  // namespace clipper
