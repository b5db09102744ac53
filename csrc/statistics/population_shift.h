// Whether two samples of counts are of one population: the population stability index
//
//   PSI = sum over the cells of (q - p) * ln(q / p)
//
// with p and q a cell's shares of the reference and of the recent sample. 0.1 is customarily taken
// for a slight shift, 0.2 for a material one (Siddiqi, "Credit Risk Scorecards", 2006). Samples of
// n and m from one population have a PSI too: (1/n + 1/m) times chi-square with cells - 1 degrees
// of freedom (Yurdakul, "Statistical Properties of Population Stability Index", 2018). So a shift
// is what is both material and beyond that distribution's quantile of 1 - 10^-6.
//
// Thread safety: all of it; pure.
#pragma once

#include <cstdint>
#include <span>

namespace clipper {

struct PopulationShift {
  static constexpr double kMaterial = 0.2;
  static constexpr double kSettled = 0.1;

  double index = 0.0;  ///< the PSI
  double bound = kMaterial;

  [[nodiscard]] bool is_shift() const noexcept { return index > bound; }
  /// Far enough below the bound to call a former shift over.
  [[nodiscard]] bool is_settled() const noexcept { return index < bound * kSettled / kMaterial; }
};

/// Compares counts cell by cell. Without anything on one side nothing has shifted.
/// REQUIRES: as many cells on both sides.
[[nodiscard]] PopulationShift population_shift(std::span<const std::uint32_t> reference,
                                               std::span<const std::uint32_t> recent) noexcept;

}  // namespace clipper
