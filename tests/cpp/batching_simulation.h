// One replica, one queue and one controller in simulated time, and the exact offline optimum to
// compare with. Deterministic: arrivals, latencies and the seed are arguments.
//
// Thread safety: none needed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <random>
#include <vector>

#include "base/clock.h"
#include "batching/controller.h"

namespace clipper::simulation {

/// alpha * rows + beta, with optional log-normal noise, preemption, stalls and a step in mid-run.
struct Latency {
  double beta_ms = 1;
  double alpha_ms = 0.1;
  double sigma = 0;  ///< of the logarithm
  std::uint32_t preempt_one_in = 0;
  double preempt_factor = 20;
  double step_at_ms = -1;  ///< from here on `step_factor` times as long
  double step_factor = 1;
  double cold_factor = 1;     ///< so many times as long where the last run ended
  double cold_after_ms = 10;  ///< more than this ago
  double stall_every_ms = 0;  ///< 0: never. The machine is taken away so often in the mean,
  double stall_ms = 2;        ///< for so long in the mean (both exponential),
  double stall_again = 0.75;  ///< and with this probability hardly is it back

  [[nodiscard]] Nanos exact_ns(std::uint32_t rows) const {
    return static_cast<Nanos>(std::llround((beta_ms + alpha_ms * rows) * 1e6));
  }
};

struct Workload {
  std::vector<Nanos> arrivals_ns;  ///< ascending
  Nanos slo_ns = 10 * kMillisecond;
  bool admission = false;
  std::uint64_t seed = 1;  ///< of the noise
};

struct Outcome {
  std::uint64_t on_time = 0;
  std::uint64_t late = 0;     ///< run, but past the deadline
  std::uint64_t dropped = 0;  ///< by the controller
  std::uint64_t expired = 0;  ///< in the queue
  std::uint64_t refused = 0;  ///< on arrival
  std::uint64_t batches = 0;
  std::vector<Nanos> on_time_at_ns;  ///< when rows that made it were complete
  std::vector<std::uint32_t> batch_rows;

  [[nodiscard]] std::uint64_t total() const { return on_time + late + dropped + expired + refused; }
};

class Replica {
 public:
  Replica(Controller& controller, const Latency& latency, const Workload& workload)
      : controller_(controller), latency_(latency), workload_(workload), random_(workload.seed) {}

  Outcome run() {
    while (next_ < workload_.arrivals_ns.size() || !waiting_.empty()) {
      if (waiting_.empty()) clock_.set(std::max(clock_.now_ns(), workload_.arrivals_ns[next_]));
      admit_arrived();
      if (!waiting_.empty()) step();
    }
    return outcome_;
  }

 private:
  void admit_arrived() {
    while (next_ < workload_.arrivals_ns.size() &&
           workload_.arrivals_ns[next_] <= clock_.now_ns()) {
      arrive(workload_.arrivals_ns[next_++]);
    }
  }

  /// Rows are let in at their own time of arrival; while a batch runs, free_at_ns_ is its end.
  void arrive(Nanos at_ns) {
    ++arrived_;
    if (workload_.admission && controller_.is_warm()) {
      const auto ahead = static_cast<std::uint32_t>(waiting_.size());
      const Nanos done =
          std::max(at_ns, predicted_free_ns_) + controller_.drain_ns(ahead + 1, workload_.slo_ns);
      if (done > at_ns + workload_.slo_ns) {
        ++outcome_.refused;
        return;
      }
    }
    waiting_.push_back(at_ns);
  }

  void step() {
    const Nanos now = clock_.now_ns();
    if (waiting_.front() + workload_.slo_ns <= now) {
      waiting_.pop_front();
      ++outcome_.expired;
      return;
    }
    Situation situation;
    situation.now_ns = situation.free_at_ns = now;
    situation.head_arrived_ns = waiting_.front();
    situation.head_deadline_ns = waiting_.front() + workload_.slo_ns;
    situation.waiting_rows = static_cast<std::uint32_t>(waiting_.size());
    situation.arrived_rows = arrived_;
    situation.tail_deadline_ns = waiting_.back() + workload_.slo_ns;
    const Decision decision = controller_.decide(situation);
    switch (decision.kind) {
      case Decision::Kind::kDrop:
        waiting_.pop_front();
        ++outcome_.dropped;
        break;
      case Decision::Kind::kWait:
        wait(std::max(decision.until_ns, now + 1));
        break;
      case Decision::Kind::kRun:
        run_batch(std::clamp(decision.rows, 1U, situation.waiting_rows));
        break;
    }
  }

  void wait(Nanos until_ns) {
    if (next_ < workload_.arrivals_ns.size()) {
      until_ns = std::min(until_ns, workload_.arrivals_ns[next_]);
    }
    clock_.set(until_ns);
  }

  void run_batch(std::uint32_t rows) {
    const Nanos start = clock_.now_ns();
    const Nanos end = end_after_stalls(start, start + draw_latency(rows));
    predicted_free_ns_ = start + controller_.drain_ns(rows, kNever);
    std::vector<Nanos> batch(waiting_.begin(), waiting_.begin() + rows);
    waiting_.erase(waiting_.begin(), waiting_.begin() + rows);
    while (next_ < workload_.arrivals_ns.size() && workload_.arrivals_ns[next_] <= end) {
      arrive(workload_.arrivals_ns[next_++]);
    }
    for (const Nanos arrived : batch) {
      if (end <= arrived + workload_.slo_ns) {
        ++outcome_.on_time;
        outcome_.on_time_at_ns.push_back(end);
      } else {
        ++outcome_.late;
      }
    }
    ++outcome_.batches;
    outcome_.batch_rows.push_back(rows);
    clock_.set(end);
    predicted_free_ns_ = last_end_ns_ = end;
    controller_.observe({rows, start, end, false});
  }

  /// Whatever runs when the machine is taken away ends so much later.
  Nanos end_after_stalls(Nanos start_ns, Nanos end_ns) {
    if (latency_.stall_every_ms <= 0) return end_ns;
    while (stall_at_ns_ < end_ns) {
      const Nanos stall_ends_ns = stall_at_ns_ + draw_exponential_ns(latency_.stall_ms);
      if (stall_ends_ns > start_ns) end_ns += stall_ends_ns - std::max(stall_at_ns_, start_ns);
      const bool again = uniform_(random_) < latency_.stall_again;
      stall_at_ns_ = stall_ends_ns + draw_exponential_ns(again ? 0.15 : latency_.stall_every_ms);
    }
    return end_ns;
  }

  Nanos draw_exponential_ns(double mean_ms) {
    return static_cast<Nanos>(std::exponential_distribution<double>(1 / mean_ms)(random_) * 1e6);
  }

  Nanos draw_latency(std::uint32_t rows) {
    double factor = 1;
    if (latency_.sigma > 0) factor *= std::exp(latency_.sigma * normal_(random_));
    if (latency_.step_at_ms >= 0 &&
        static_cast<double>(clock_.now_ns()) >= latency_.step_at_ms * 1e6) {
      factor *= latency_.step_factor;
    }
    const double rested_ms = static_cast<double>(clock_.now_ns() - last_end_ns_) * 1e-6;
    if (rested_ms > latency_.cold_after_ms) factor *= latency_.cold_factor;
    if (latency_.preempt_one_in > 0 && random_() % latency_.preempt_one_in == 0) {
      factor *= latency_.preempt_factor;
    }
    return std::max<Nanos>(
        1, static_cast<Nanos>(static_cast<double>(latency_.exact_ns(rows)) * factor));
  }

  Controller& controller_;
  const Latency& latency_;
  const Workload& workload_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
  ManualClock clock_;
  std::deque<Nanos> waiting_;  // times of arrival
  std::size_t next_ = 0;
  std::uint64_t arrived_ = 0;
  Nanos predicted_free_ns_ = 0;
  Nanos last_end_ns_ = 0;
  Nanos stall_at_ns_ = 0;  // the next one, or one that has begun
  Outcome outcome_;
};

inline Outcome simulate(Controller& controller, const Latency& latency, const Workload& workload) {
  return Replica(controller, latency, workload).run();
}

/// Rows per nanosecond of the largest batch that takes at most half the objective.
inline double slo_capacity(const Latency& latency, Nanos slo_ns) {
  double best = 1.0 / static_cast<double>(latency.exact_ns(1));
  for (std::uint32_t rows = 1; latency.exact_ns(rows) <= slo_ns / 2; ++rows) {
    best = std::max(best, rows / static_cast<double>(latency.exact_ns(rows)));
  }
  return best;
}

enum class Arrivals { kPoisson, kGamma, kMarkov };

/// `count` times of arrival at `rate` rows per nanosecond in the mean; gamma: coefficient of
/// variation 3; Markov: 2.0 and 0.4 times the rate in phases of 6 and 10 objectives in the mean.
inline std::vector<Nanos> draw_arrivals(Arrivals kind, std::size_t count, double rate, Nanos slo_ns,
                                        std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> exponential(1.0);
  std::gamma_distribution<double> gamma(1.0 / 9, 9.0);
  std::vector<Nanos> times;
  times.reserve(count);
  double at = 0;
  bool busy = false;
  double phase_end = exponential(random) * 10 * static_cast<double>(slo_ns);
  while (times.size() < count) {
    if (kind == Arrivals::kMarkov) {
      const double next = at + exponential(random) / (rate * (busy ? 2.0 : 0.4));
      if (next > phase_end) {  // memoryless: start afresh in the new phase
        at = phase_end;
        busy = !busy;
        phase_end += exponential(random) * (busy ? 6 : 10) * static_cast<double>(slo_ns);
        continue;
      }
      at = next;
    } else {
      at += (kind == Arrivals::kGamma ? gamma(random) : exponential(random)) / rate;
    }
    times.push_back(static_cast<Nanos>(at));
  }
  return times;
}

/// The most rows that any schedule could complete in time: see tests/simulation/optimum.py for the
/// argument. `beaten` is what some schedule reached; it bounds the search.
inline std::uint64_t offline_optimum(const std::vector<Nanos>& arrivals, Nanos slo_ns,
                                     const Latency& latency, std::uint64_t beaten) {
  const std::size_t count = arrivals.size();
  const std::size_t skips = count - std::min<std::size_t>(beaten, count) + 1;
  std::uint32_t most = 0;
  while (latency.exact_ns(most + 1) <= slo_ns) ++most;
  // free[i % ring][s]: the earliest the device is free with the first i rows settled, s skipped.
  const std::size_t ring = std::size_t{most} + 1;
  std::vector<std::vector<Nanos>> free(ring, std::vector<Nanos>(skips, kNever));
  free[0][0] = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<Nanos>& here = free[i % ring];
    const Nanos deadline = arrivals[i] + slo_ns;
    for (std::uint32_t rows = 1; rows <= most && i + rows <= count; ++rows) {
      const Nanos last = arrivals[i + rows - 1];
      const Nanos takes = latency.exact_ns(rows);
      if (last + takes > deadline) break;
      std::vector<Nanos>& there = free[(i + rows) % ring];
      const Nanos latest = deadline - takes;
      for (std::size_t s = 0; s < skips; ++s) {
        const Nanos start = std::max(here[s], last);
        const Nanos end = start <= latest ? start + takes : kNever;
        there[s] = std::min(there[s], end);
      }
    }
    std::vector<Nanos>& next = free[(i + 1) % ring];
    for (std::size_t s = 0; s + 1 < skips; ++s) next[s + 1] = std::min(next[s + 1], here[s]);
    std::fill(here.begin(), here.end(), kNever);
  }
  const std::vector<Nanos>& last = free[count % ring];
  for (std::size_t s = 0; s < skips; ++s) {
    if (last[s] != kNever) return count - s;
  }
  return 0;
}

}  // namespace clipper::simulation
