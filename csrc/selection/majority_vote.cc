#include "selection/majority_vote.h"

#include <cstring>
#include <numeric>

namespace clipper {

std::size_t MajorityVote::select(const SelectionInput& input,
                                 std::span<std::uint16_t> chosen) noexcept {
  std::iota(chosen.begin(), chosen.begin() + input.models, std::uint16_t{0});
  return input.models;
}

Combined MajorityVote::combine(std::span<const Answer> answers, std::size_t row_bytes,
                               std::byte* output) const noexcept {
  const std::byte* winner = nullptr;
  std::size_t most = 0;
  // Quadratic in the number of models, which is small; and nothing is allocated.
  for (const Answer& candidate : answers) {
    if (candidate.output == nullptr) continue;
    std::size_t votes = 0;
    for (const Answer& other : answers) {
      votes +=
          other.output != nullptr && std::memcmp(candidate.output, other.output, row_bytes) == 0;
    }
    if (votes > most) {
      most = votes;
      winner = candidate.output;
    }
  }
  if (winner == nullptr) return {};
  std::memcpy(output, winner, row_bytes);
  return {true, static_cast<float>(most) / static_cast<float>(answers.size())};
}

}  // namespace clipper
