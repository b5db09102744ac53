#include "selection/majority_vote.h"

#include <algorithm>

namespace clipper {

std::size_t MajorityVote::select(const SelectionInput& input, PolicyState /*state*/,
                                 std::span<Choice> chosen) const noexcept {
  const std::uint16_t asked = std::min(input.models, input.most);
  for (std::uint16_t model = 0; model < asked; ++model) chosen[model] = {model};
  return asked;
}

Combined MajorityVote::combine(std::span<const Answer> answers, PolicyState /*state*/,
                               const OutputLayout& layout, std::byte* /*output*/) const noexcept {
  std::size_t winner = 0;
  std::size_t most = 0;
  // Quadratic in the number of models, which is small; and nothing is allocated.
  for (std::size_t candidate = 0; candidate < answers.size(); ++candidate) {
    const std::byte* output = answers[candidate].output;
    if (output == nullptr) continue;
    std::size_t votes = 0;
    for (const Answer& other : answers) {
      votes += other.output != nullptr && layout.equal(output, other.output);
    }
    if (votes > most) {
      most = votes;
      winner = candidate;
    }
  }
  if (most == 0) return {};
  return {true, winner, static_cast<float>(most) / static_cast<float>(answers.size())};
}

void MajorityVote::describe(PolicyState /*state*/, std::span<Standing> standings) const noexcept {
  for (Standing& standing : standings) {
    standing = {1.0, 1.0 / static_cast<double>(standings.size())};
  }
}

}  // namespace clipper
