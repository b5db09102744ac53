// Cells for numbers of which nothing is known: edges at the quantiles of the first ones, so that
// each cell gets about as many.
//
// What lies on an edge has a cell of its own. So numbers that are mostly the same, or few different
// ones, are told apart from what comes above and below them.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace clipper {

class ValueBins {
 public:
  static constexpr std::size_t kEdges = 15;
  static constexpr std::size_t kNotFinite = 2 * kEdges + 1;
  static constexpr std::size_t kCells = kNotFinite + 1;

  [[nodiscard]] bool has_edges() const noexcept { return !edges_.empty(); }

  /// REQUIRES: has_edges().
  [[nodiscard]] std::size_t cell_of(double value) const noexcept {
    if (!std::isfinite(value)) return kNotFinite;
    const auto edge = std::lower_bound(edges_.begin(), edges_.end(), value);
    const auto below = static_cast<std::size_t>(edge - edges_.begin());
    return 2 * below + (edge != edges_.end() && *edge == value ? 1 : 0);
  }

  /// Sets the edges. REQUIRES: first values, at least one; of none that is finite, 0 is the edge.
  void learn(std::vector<double> first) {
    std::erase_if(first, [](double value) { return !std::isfinite(value); });
    if (first.empty()) first.push_back(0.0);
    std::sort(first.begin(), first.end());
    edges_.clear();
    for (std::size_t i = 1; i <= kEdges; ++i) {
      const double edge = first[i * first.size() / (kEdges + 1)];
      if (edges_.empty() || edges_.back() != edge) edges_.push_back(edge);
    }
  }
  [[nodiscard]] const std::vector<double>& edges() const noexcept { return edges_; }
  void clear() noexcept { edges_.clear(); }

 private:
  std::vector<double> edges_;  // ascending, each once
};

}  // namespace clipper
