#include "batching/deadline.h"

#include <algorithm>
#include <utility>

#include "batching/batches.h"

namespace clipper {
namespace {

constexpr Nanos kRememberedFor = 50;  // objectives that an objective counts after it was last seen
constexpr Nanos kProbeEvery = 50 * kMillisecond;
constexpr Nanos kProbesLast = 5 * kMillisecond;
constexpr std::uint64_t kTrustedRuns = 3;            // the first run of a model is often no measure
constexpr Nanos kBestEffortRun = 50 * kMillisecond;  // the longest batch of rows without a deadline
constexpr Nanos kPausePart = 20;
constexpr Nanos kTimerSlack = 300 * kMicrosecond;  // how late a timed wait commonly ends

}  // namespace

/// A conflict: the head cannot wait for all that is wanted.
struct DeadlineController::Plan {
  Nanos slack_ns = 0;        // from the start of a batch bound now to the deadline of the head
  std::uint32_t wanted = 1;  // rows aimed at
  std::uint32_t fits = 1;  // rows whose batch likely keeps the deadline of the head; fits < wanted
};

DeadlineController::DeadlineController(DeadlineOptions options, std::shared_ptr<LatencyModel> known)
    : Controller(std::move(known)),
      max_batch_(std::clamp(options.max_batch, 1U, row_buckets::kLargestRows)),
      delay_ns_(std::max<Nanos>(options.delay_ns, 0)) {}

void DeadlineController::observe(const Run& run) noexcept {
  learn_from(run, latency_);
  last_run_ns_ = run.end_ns;
  last_run_rows_ = run.rows;
}

Nanos DeadlineController::run_bound_ns(std::uint32_t rows) const noexcept {
  return latency_.bound_ns(rows);
}

bool DeadlineController::is_warm() const noexcept { return latency_.is_warm(); }

std::uint32_t DeadlineController::batch_limit(Nanos slo_ns) const noexcept {
  const Nanos longest = slo_ns == kNever ? kBestEffortRun : slo_ns;
  return std::clamp(latency_.rows_likely_within(longest), 1U, max_batch_);
}

std::uint32_t DeadlineController::rows_in_half(Nanos slo_ns) const noexcept {
  return batch_limit(slo_ns == kNever ? kNever : slo_ns / 2);
}

Nanos DeadlineController::drain_ns(std::uint32_t rows, Nanos slo_ns) const noexcept {
  return drain_in_batches(latency_, rows, batch_limit(slo_ns));
}

Decision DeadlineController::decide(const Situation& situation, Noticed& noticed) const noexcept {
  if (situation.head_deadline_ns == kNever) return decide_best_effort(situation, noticed);
  const Nanos start = std::max(situation.now_ns, situation.free_at_ns);
  const Nanos slo = objective_ns(situation);
  // Rows without a deadline can wait: the head is never dropped for a batch of those.
  const bool before_best_effort = situation.tail_deadline_ns == kNever;
  const bool urgent = is_urgent_among_peers(slo, noticed) || before_best_effort;
  learn_objective(slo, situation.now_ns, noticed);
  const Nanos until = delayed_until_ns(situation, slo);
  if (until > situation.now_ns) return wait_until(until);

  Plan plan;
  plan.slack_ns = time_between(start, situation.head_deadline_ns);
  plan.wanted = std::min(situation.waiting_rows, max_batch_);
  if (latency_.knows_slope() && noticed.shortest_slo_ns < slo / 4 * 3) {
    plan.wanted = std::min(plan.wanted, batch_limit(noticed.shortest_slo_ns / 2));
  }
  plan.wanted = latency_.economical_rows(plan.wanted);
  if (latency_.likely_ns(plan.wanted) <= plan.slack_ns) {  // the common case; 0: nothing known yet
    return run_prudently(plan.wanted, plan.slack_ns);
  }
  plan.fits = latency_.rows_likely_within(believed_slack_ns(plan.slack_ns));
  if (plan.fits == 0) return decide_infeasible(situation, start, noticed);
  if (!latency_.knows_slope()) return run_prudently(plan.wanted, 0);
  plan.wanted = std::min(plan.wanted, urgent ? rows_in_half(slo) : batch_limit(slo));
  if (plan.fits < plan.wanted && !before_best_effort &&
      !loses_nobody_by_splitting(situation, plan)) {
    return drop_head();
  }
  return run_prudently(std::min(plan.fits, plan.wanted), plan.slack_ns);
}

Decision DeadlineController::decide_best_effort(const Situation& situation,
                                                Noticed& noticed) const noexcept {
  const Nanos until = delayed_until_ns(situation, kNever);
  if (until > situation.now_ns) return wait_until(until);
  // So short that a row with a deadline, which may come at any time, still makes it.
  learn_objective(kNever, situation.now_ns, noticed);
  const Nanos longest = std::min(kBestEffortRun, noticed.shortest_slo_ns / 2);
  const std::uint32_t limit = latency_.knows_slope() ? batch_limit(longest) : max_batch_;
  const std::uint32_t wanted = latency_.economical_rows(std::min(situation.waiting_rows, limit));
  return run_prudently(wanted, 2 * kBestEffortRun);
}

/// Cold growth 1, 4, 16, ...: extrapolation counts for something only when there is a line to
/// follow.
Decision DeadlineController::run_prudently(std::uint32_t rows, Nanos slack_ns) const noexcept {
  return run_rows(latency_.prudent_rows(rows, latency_.knows_slope() ? slack_ns : 0));
}

/// While next to nothing is known the wide margin would turn away rows that could teach, and that
/// will mostly make it: the first runs are chosen by what is expected.
Nanos DeadlineController::believed_slack_ns(Nanos slack_ns) const noexcept {
  if (latency_.is_warm() || slack_ns <= 0 || slack_ns > kNever / 2) return slack_ns;
  return static_cast<Nanos>(static_cast<double>(slack_ns) * latency_.margin());
}

/// Not even the head alone makes it, if the bound is right. Whether it is right is asked only where
/// the answer costs little: on a replica that is idle and has not run anything for long. Short runs
/// are then tried several times in a row, for the first one after a rest finds nothing in the
/// caches and may take many times as long as those that follow. A younger row that makes it teaches
/// more than a run that is late by all that is known.
Decision DeadlineController::decide_infeasible(const Situation& situation, Nanos start_ns,
                                               Noticed& noticed) const noexcept {
  if (start_ns >= situation.head_deadline_ns) return drop_head();
  const Nanos tail_slack_ns = time_between(start_ns, situation.tail_deadline_ns);
  if (latency_.rows_within(believed_slack_ns(tail_slack_ns)) > 0) return drop_head();
  if (latency_.runs() < kTrustedRuns) return run_rows(1);
  const Nanos slo = objective_ns(situation);
  if (latency_.bound_ns(1) > slo && latency_.expected_ns(1) <= slo) {
    return decide_by_expectation(situation, time_between(start_ns, situation.head_deadline_ns));
  }
  const bool idle = situation.free_at_ns <= situation.now_ns;
  const Nanos last_ns = std::max(last_run_ns_, noticed.probed_ns);
  if (time_between(last_ns, situation.now_ns) >= kProbeEvery) {
    noticed.probing_since_ns = situation.now_ns;
  }
  if (!idle || time_between(noticed.probing_since_ns, situation.now_ns) >= kProbesLast) {
    return drop_head();
  }
  noticed.probed_ns = situation.now_ns;
  return run_rows(1);
}

/// The bound leaves not even a row that has just come its chance, although most rows would make it:
/// one run in a hundred is disturbed for longer than the objective. A bound that forbids everything
/// says nothing about what to choose, and obeying it, with a probe now and then, would keep it up
/// for as long as its window takes to fill. So the same rule goes by what is expected.
Decision DeadlineController::decide_by_expectation(const Situation& situation,
                                                   Nanos slack_ns) const noexcept {
  const std::uint32_t most = std::min(situation.waiting_rows, max_batch_);
  const std::uint32_t wanted = rows_expected_within(objective_ns(situation) / 2, most);
  const std::uint32_t fits = rows_expected_within(slack_ns, most);
  return fits < wanted ? drop_head() : run_prudently(fits, 0);
}

/// The most rows, of 1 to `most`, that are expected to take at most `limit_ns`; 0: none.
std::uint32_t DeadlineController::rows_expected_within(Nanos limit_ns,
                                                       std::uint32_t most) const noexcept {
  std::uint32_t fits = 0;
  for (std::uint32_t beyond = most + 1; beyond - fits > 1;) {
    const std::uint32_t middle = fits + (beyond - fits) / 2;
    (latency_.expected_ns(middle) <= limit_ns ? fits : beyond) = middle;
  }
  return fits;
}

/// Dropping the head buys a larger batch. It is not worth it where two batches serve everybody:
/// what fits now, and after it the rest with those who will have come by then. Rows are taken to be
/// spread evenly between the head and now.
bool DeadlineController::loses_nobody_by_splitting(const Situation& situation,
                                                   const Plan& plan) const noexcept {
  const auto age = static_cast<double>(time_between(situation.head_arrived_ns, situation.now_ns));
  const double spacing = std::max(age / situation.waiting_rows, 1.0);
  const auto first = static_cast<double>(latency_.likely_ns(plan.fits));
  const double rest = plan.wanted - plan.fits + first / spacing;
  const double slack = static_cast<double>(plan.slack_ns) + spacing * plan.fits - first;
  if (rest > max_batch_ || slack <= 0) return false;
  return slack > static_cast<double>(latency_.likely_ns(static_cast<std::uint32_t>(rest)));
}

/// Under load an idle replica gives a burst the time to come whole, a twentieth of the shortest
/// run, where two runs take more than half the objective: who misses the batch by a hair then
/// misses its deadline too. 0: not now.
Nanos DeadlineController::pause_for_a_burst_ns(const Situation& situation,
                                               Nanos slo_ns) const noexcept {
  const bool is_loaded =
      last_run_rows_ > 1 && time_between(last_run_ns_, situation.now_ns) < slo_ns;
  if (!is_loaded || slo_ns == kNever || latency_.bound_ns(1) <= slo_ns / 4) return 0;
  return latency_.expected_ns(1) / kPausePart;
}

/// The end of a delay, the user's or that of a burst; not after now if there is none.
Nanos DeadlineController::delayed_until_ns(const Situation& situation,
                                           Nanos slo_ns) const noexcept {
  const Nanos delay_ns = std::max(delay_ns_, pause_for_a_burst_ns(situation, slo_ns));
  if (delay_ns == 0 || !latency_.is_warm()) return situation.now_ns;
  if (situation.waiting_rows >= rows_in_half(slo_ns)) return situation.now_ns;
  const Nanos until = saturating_add(situation.head_arrived_ns, delay_ns);
  if (situation.head_deadline_ns == kNever) return until;
  // As late as one more row would still make it, for it may come at the last moment.
  const Nanos needs =
      latency_.bound_ns(situation.waiting_rows + 1) + std::min(kTimerSlack, slo_ns / 16);
  return std::min(until, time_between(needs, situation.head_deadline_ns));
}

/// No batch takes longer than half the shortest objective lately seen: rows of that may come while
/// it runs. One that is hardly more than a single row takes does not count: smaller batches would
/// not save it.
void DeadlineController::learn_objective(Nanos slo_ns, Nanos now_ns,
                                         Noticed& noticed) const noexcept {
  const bool is_servable = latency_.bound_ns(1) <= slo_ns / 2;
  const bool is_forgotten =
      noticed.shortest_slo_ns < kNever / kRememberedFor &&
      time_between(noticed.shortest_seen_ns, now_ns) > kRememberedFor * noticed.shortest_slo_ns;
  if (is_forgotten) noticed.shortest_slo_ns = kNever;
  if (!is_servable || slo_ns > noticed.shortest_slo_ns) return;
  noticed.shortest_slo_ns = slo_ns;
  noticed.shortest_seen_ns = now_ns;
}

/// Whether the rows behind the head probably have longer objectives. Then its early deadline says
/// nothing about theirs, and it must not be sacrificed to a batch as large as all of them.
bool DeadlineController::is_urgent_among_peers(Nanos slo_ns, Noticed& noticed) noexcept {
  noticed.longest_slo_ns = std::max(slo_ns, noticed.longest_slo_ns - noticed.longest_slo_ns / 1024);
  return slo_ns < noticed.longest_slo_ns / 4 * 3;
}

}  // namespace clipper
