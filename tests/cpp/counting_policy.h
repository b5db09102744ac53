// A policy whose state says how often it learned what: two numbers for each model.
#pragma once

#include <cstdint>

#include "selection/policy.h"

namespace clipper::testing {

class CountingPolicy final : public Policy {
 public:
  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override {
    return std::size_t{2} * models;
  }
  [[nodiscard]] std::size_t select(const SelectionInput& /*input*/, PolicyState /*state*/,
                                   std::span<Choice> chosen) const noexcept override {
    chosen[0] = {0, 1.0F};
    return 1;
  }
  [[nodiscard]] Combined combine(std::span<const Answer> /*answers*/, PolicyState /*state*/,
                                 const OutputLayout& /*layout*/,
                                 std::byte* /*output*/) const noexcept override {
    return {true, 0, 1.0F};
  }
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override {
    for (const Observation& seen : observations) {
      state[2U * seen.model].fetch_add(1.0, std::memory_order_relaxed);
      state[2U * seen.model + 1].fetch_add(static_cast<double>(seen.loss),
                                           std::memory_order_relaxed);
    }
  }
};

}  // namespace clipper::testing
