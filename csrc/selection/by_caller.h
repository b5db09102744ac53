// Stands in where callers choose and combine by themselves, as for policies that are written in
// another language: asks every model that is not chosen among, and gives the first answer. Whose
// answers must be combined otherwise sees to that before the query is collected.
//
// Thread safety: immutable.
#pragma once

#include <cstdint>
#include <span>

#include "selection/choosing.h"
#include "selection/policy.h"

namespace clipper {

class ByCaller final : public Policy {
 public:
  [[nodiscard]] bool asks_several() const noexcept override { return true; }
  [[nodiscard]] bool learns_by_context() const noexcept override { return false; }
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState /*state*/,
                                   std::span<Choice> chosen) const noexcept override {
    for (std::uint16_t model = 0; model < input.models; ++model) chosen[model] = {model};
    return input.models;
  }
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState /*state*/,
                                 const OutputLayout& /*layout*/,
                                 std::byte* /*output*/) const noexcept override {
    return only_answer(answers);
  }
};

}  // namespace clipper
