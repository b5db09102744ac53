// Multiplicative weights, kept as logarithms: s <- s * exp(-step), for ever.
//
// Two things keep them useful for ever. A floor: no update pushes a weight below `floor` times the
// largest of the others, so that a model that has failed for a million queries comes back in as
// many as it takes to make up for ln(1 / floor). That plays the part of the fixed share (Herbster
// and Warmuth, "Tracking the Best Expert", 1998) without touching every weight at every update.
// And a circle: weights matter only relative to each other and the floor bounds how far apart they
// can be, so each is kept modulo kCircle, and read as the shortest way round from another one. Each
// update wraps its own number; there is no renormalisation that readers could see half done.
//
// Thread safety: all of it; updates are compare-and-swap loops, and none is lost. Concurrent ones
// may apply the floor against a largest weight that has just changed.
// State: for each model the logarithm of its weight, in (-kCircle, 0].
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "selection/policy.h"

namespace clipper {

class LogWeights {
 public:
  /// Far more than floors let weights differ by (the smallest double is exp(-745)); small enough
  /// that a double resolves 1e-11 of it.
  static constexpr double kCircle = 65536.0;

  /// Throws kInvalidArgument unless 0 < floor <= 1/2 and it is a normal number.
  static double checked_floor(double floor);

  /// log_floor: the logarithm of the floor.
  LogWeights(PolicyState state, double log_floor) noexcept : state_(state), log_floor_(log_floor) {}

  /// Writes what each weight is of the sum of all. REQUIRES: room for all.
  void shares(std::span<double> shares) const noexcept;
  /// Multiplies one weight with exp(-step), down to the floor. REQUIRES: step >= 0, model < size.
  void lower(std::size_t model, double step) const noexcept;

 private:
  PolicyState state_;
  double log_floor_;
};

}  // namespace clipper
