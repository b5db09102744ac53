// The factor by which a quantile is raised so that about one run in a thousand exceeds its bound.
//
// Two parts. The slow one is adaptive conformal inference with the target 0.1 %: a run over its
// bound raises it by a step, every other run lowers it by a thousandth of that step, so that in the
// long run errors balance at the target whatever the distribution. Source: Gibbs & Candes,
// "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021. The fast one is caution
// while little is known (after the start, after a drift) and fades within some twenty runs: a
// bound 15 % too short costs far more goodput than one 40 % too long.
//
// Thread safety: one thread.
// Invariants: factor() stays within [kLeast, kMost].
#pragma once

#include <algorithm>

namespace clipper {

class ConformalMargin {
 public:
  static constexpr double kLeast = 1.02;
  static constexpr double kMost = 1.5;
  static constexpr double kStart = 1.4;

  /// `quiet`: runs have been seen to scatter little, so caution may fade faster.
  void within_bound(bool quiet) noexcept {
    slow_ = std::max(slow_ - kStep * kTarget, 0.0);
    fast_ *= quiet ? kFadeQuiet : kFade;
  }

  void over_bound() noexcept { slow_ = std::min(slow_ + kStep, kMost - kLeast); }

  /// What was learned no longer holds. The last `explained` runs over their bounds were no chance.
  void be_cautious(int explained) noexcept {
    slow_ = std::max(slow_ - kStep * explained, 0.0);
    fast_ = std::max(fast_, kCaution);
  }

  [[nodiscard]] double factor() const noexcept { return std::min(kLeast + slow_ + fast_, kMost); }

 private:
  static constexpr double kTarget = 0.001;
  static constexpr double kStep = 0.05;
  static constexpr double kFade = 1.0 - 1.0 / 8;
  static constexpr double kFadeQuiet = 0.5;
  static constexpr double kCaution = 0.2;

  double slow_ = 0;
  double fast_ = kStart - kLeast;
};

}  // namespace clipper
