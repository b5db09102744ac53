// What callers talk to: the models it may ask, the policy that chooses among them, its objective.
//
// Thread safety: all of it; set up before the first query.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/errors.h"
#include "base/histogram.h"
#include "selection/context_table.h"
#include "selection/loss.h"
#include "selection/plan.h"
#include "selection/policy.h"
#include "serving/ask_limit.h"
#include "serving/feedback_tally.h"
#include "serving/model.h"
#include "serving/shadow.h"

namespace clipper {

/// What became of the rows of one stage of a plan.
struct StageCounts {
  std::atomic<std::uint64_t> ran{0};
  std::atomic<std::uint64_t> skipped{0};
  std::atomic<std::uint64_t> failed{0};  // whatever the cause
};

class Application {
 public:
  Application(std::string its_name, std::vector<Model*> linked, std::unique_ptr<Policy> chooser,
              Nanos objective_ns, float least_confidence, Priority urgency = 0,
              std::size_t context_bytes = ContextOptions::kDefaultBytes,
              std::unique_ptr<const Plan> way = nullptr)
      : name(std::move(its_name)),
        models(std::move(linked)),
        policy(std::move(chooser)),
        contexts(policy ? std::make_unique<ContextTable>(
                              *policy, static_cast<std::uint16_t>(models.size()), context_bytes)
                        : nullptr),
        slo_ns(objective_ns),
        min_confidence(least_confidence),
        priority(std::clamp(urgency, kLeastPriority, kMostPriority)),
        plan(std::move(way)),
        stage_counts(plan ? std::make_unique<StageCounts[]>(plan->stages().size()) : nullptr),
        keeps_records(policy != nullptr &&
                      policy->state_words(static_cast<std::uint16_t>(models.size())) > 0) {}

  const std::string name;
  const std::vector<Model*> models;
  const std::unique_ptr<Policy> policy;  // nullptr: the one model, nothing to choose or combine
  // What the policy has learned; nullptr: no policy. Another may be set before the first query.
  std::unique_ptr<ContextTable> contexts;
  const Nanos slo_ns;                      // kNever: best effort
  const float min_confidence;              // 0: every answer will do
  const Priority priority;                 // of its queries, unless they say otherwise
  const std::unique_ptr<const Plan> plan;  // nullptr: models are asked at once, not in stages
  const std::unique_ptr<StageCounts[]> stage_counts;  // of each stage of the plan

  /// REQUIRES: a plan, and a stage of it.
  [[nodiscard]] StageCounts& counts_of(std::size_t stage) noexcept { return stage_counts[stage]; }

  // Set up before the first query.
  bool keeps_records;                // whether answered queries are kept until their feedback comes
  std::unique_ptr<Shadows> shadows;  // nullptr: there are none
  Loss loss;                         // how feedback judges outputs
  // Under load queries ask so many models at the least, those that the policy trusts most; 0: they
  // always ask whom it chooses.
  std::uint16_t fewest_asks = 0;

  /// Event loops run batches inline up to this bound.
  [[nodiscard]] Nanos inline_limit_ns() const noexcept {
    return slo_ns == kNever ? 2 * kMillisecond : std::min(2 * kMillisecond, slo_ns / 10);
  }

  std::array<std::atomic<std::uint64_t>, kCauses> rows_by_cause{};  // kNone: answered
  std::atomic<std::uint64_t> rows_in_time{0};  // answered, and held before the deadline
  AskLimit ask_limit;                          // under load
  std::atomic<std::uint64_t> asks_spared{0};   // models that were not asked because of load
  Histogram latency_ns;                        // of queries, from arrival to answer
  FeedbackTally feedback;
};

}  // namespace clipper
