// Sends a share of the queries to a new model, and takes it back by itself when the new model fails
// more often than the old one.
//
// An error, a crash, an answer that came too late or not at all is a failure. After each one of the
// new model, and once both have been asked `min_count` times, the shares of failures are compared
// by the pooled two-proportion z-test: z = (p1 - p0) / sqrt(p (1 - p) (1/n1 + 1/n0)), where p is
// the share of both together. Beyond `z` the new model is withdrawn: it gets no more queries until
// somebody starts again. The test is made again and again, so its threshold must be higher than for
// a single look: by chance alone, z > 4 comes up in one of 30,000 single looks.
//
// What is counted is the application's, whatever contexts the queries have; a query with a context
// always goes where its context goes.
//
// Source: the test is in any text on statistics, such as Fleiss, Levin, Paik, "Statistical Methods
// for Rates and Proportions", 3rd edition 2003, chapter 3.
// Thread safety: as Policy says. State: asked and failed of the old, of the new, and whether it is
// withdrawn.
#pragma once

#include "selection/policy.h"

namespace clipper {

struct CanaryOptions {
  std::uint16_t model = 1;  ///< which of the two models is new
  double share = 0.05;      ///< of queries that ask it, in [0, 1]
  double min_count = 100;   ///< queries that each must have been asked before they are compared
  double z = 4.0;           ///< > 0
};

class Canary final : public Policy {
 public:
  /// For applications of two models. Throws kInvalidArgument.
  explicit Canary(const CanaryOptions& options);

  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override;
  [[nodiscard]] bool learns_by_context() const noexcept override { return false; }
  [[nodiscard]] bool watches() const noexcept override { return true; }
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept override;
  [[nodiscard]] bool watch(std::span<const Service> services,
                           PolicyState state) const noexcept override;
  /// Whether the new model gets no queries until begin().
  [[nodiscard]] static bool is_withdrawn(PolicyState state) noexcept;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;

 private:
  [[nodiscard]] bool stands_out(PolicyState state) const noexcept;

  const CanaryOptions options_;
};

}  // namespace clipper
