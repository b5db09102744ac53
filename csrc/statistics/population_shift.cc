#include "statistics/population_shift.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace clipper {
namespace {

constexpr double kNormalQuantile = 4.7534;  // of 1 - 10^-6
constexpr double kSmoothing = 0.5;          // added to each cell: an empty one has no logarithm

// Wilson and Hilferty, "The Distribution of Chi-Square", 1931.
double chi_square_quantile(double degrees) noexcept {
  const double spread = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - spread + kNormalQuantile * std::sqrt(spread), 3.0);
}

}  // namespace

PopulationShift population_shift(std::span<const std::uint32_t> reference,
                                 std::span<const std::uint32_t> recent) noexcept {
  double before = 0.0;
  double now = 0.0;
  double cells = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    before += reference[i];
    now += recent[i];
    cells += reference[i] + recent[i] > 0 ? 1.0 : 0.0;
  }
  PopulationShift shift;
  if (before == 0.0 || now == 0.0 || cells < 2.0) return shift;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    if (reference[i] + recent[i] == 0) continue;
    const double p = (reference[i] + kSmoothing) / (before + kSmoothing * cells);
    const double q = (recent[i] + kSmoothing) / (now + kSmoothing * cells);
    shift.index += (q - p) * std::log(q / p);
  }
  const double by_chance = (1.0 / before + 1.0 / now) * chi_square_quantile(cells - 1.0);
  shift.bound = std::max(PopulationShift::kMaterial, by_chance);
  return shift;
}

}  // namespace clipper
