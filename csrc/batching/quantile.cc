#include "batching/quantile.h"

#include <algorithm>
#include <utility>

#include "batching/batches.h"

namespace clipper {
namespace {

constexpr Nanos kBestEffortRun = 50 * kMillisecond;  // the objective of rows without one
constexpr std::uint32_t kGrowth = 2;
constexpr Nanos kSuspect = 2;  // this many times over its bound a run looks preempted

}  // namespace

QuantileController::QuantileController(QuantileOptions options, std::shared_ptr<LatencyModel> known)
    : Controller(std::move(known)),
      max_batch_(std::max(options.max_batch, 1U)),
      fixed_slo_ns_(std::max<Nanos>(options.slo_ns, 0)),
      slo_ns_(fixed_slo_ns_ > 0 ? fixed_slo_ns_ : kNever) {
  choose_size();
}

Nanos QuantileController::slo_of(const Situation& situation) const noexcept {
  return fixed_slo_ns_ > 0 ? fixed_slo_ns_ : objective_ns(situation);
}

Decision QuantileController::decide(const Situation& situation) noexcept {
  const Nanos slo_ns = slo_of(situation);
  if (slo_ns != slo_ns_) {
    slo_ns_ = slo_ns;
    choose_size();
  }
  return run_rows(std::min(situation.waiting_rows, size()));
}

Decision QuantileController::foresee(const Situation& situation) const noexcept {
  const Nanos slo_ns = slo_of(situation);
  return run_rows(std::min(situation.waiting_rows, slo_ns == slo_ns_ ? size() : size_for(slo_ns)));
}

void QuantileController::observe(const Run& run) noexcept {
  const Nanos bound_ns = latency_.bound_ns(run.rows);
  learn_from(run, latency_);
  if (run.failed || run.rows == 0) return;
  const Nanos took_ns = std::max<Nanos>(time_between(run.start_ns, run.end_ns), 1);
  if (bound_ns > 0 && took_ns / kSuspect > bound_ns) return;
  line_.add(run.rows, static_cast<double>(took_ns));
  choose_size();
}

std::uint32_t QuantileController::size_for(Nanos slo_ns) const noexcept {
  const Nanos objective_ns = slo_ns == kNever ? kBestEffortRun : slo_ns;
  if (line_.empty()) {  // it starts from what its predecessor knew, if it had one
    const std::uint32_t rows = takes_over_ ? rows_known_within(latency_, objective_ns) : 1;
    return std::min(rows, max_batch_);
  }
  const double most =
      std::min<double>(static_cast<double>(line_.largest_rows()) * kGrowth, max_batch_);
  const double left_ns = static_cast<double>(objective_ns) - line_.beta();
  // A flat line allows anything, a high one nothing.
  const double fits = left_ns <= 0                     ? 1
                      : left_ns < line_.alpha() * most ? left_ns / line_.alpha()
                                                       : most;
  return static_cast<std::uint32_t>(std::max(fits, 1.0));
}

Nanos QuantileController::run_bound_ns(std::uint32_t rows) const noexcept {
  return latency_.bound_ns(rows);
}

Nanos QuantileController::drain_ns(std::uint32_t rows, Nanos /*slo_ns*/) const noexcept {
  return drain_in_batches(latency_, rows, size());
}

std::uint32_t QuantileController::batch_limit(Nanos /*slo_ns*/) const noexcept { return size(); }

bool QuantileController::is_warm() const noexcept { return latency_.is_warm(); }

}  // namespace clipper
