// What it costs to decide on a batch and to learn from it, for each strategy.
#include <memory>

#include "base/random.h"
#include "batching/aimd.h"
#include "batching/deadline.h"
#include "batching/fixed.h"
#include "measure.h"

namespace {

using namespace clipper;

constexpr Nanos kSlo = 20 * kMillisecond;

/// A model of 0.9 + 0.1 b ms, a little noisy, under a queue of changing length.
void decide_and_observe(Controller& controller, std::uint64_t operations) {
  Random random(1);
  Nanos now_ns = kSecond;
  std::uint64_t arrived = 0;
  for (std::uint64_t i = 0; i < operations; ++i) {
    Situation situation;
    situation.now_ns = situation.free_at_ns = now_ns;
    situation.head_arrived_ns = now_ns - 2 * kMillisecond;
    situation.head_deadline_ns = situation.head_arrived_ns + kSlo;
    situation.waiting_rows = 1 + static_cast<std::uint32_t>(random.below(100));
    situation.arrived_rows = arrived += situation.waiting_rows;
    const Decision decision = controller.decide(situation);
    bench::keep(decision);
    const std::uint32_t rows = decision.kind == Decision::Kind::kRun ? decision.rows : 1;
    const Nanos took_ns =
        900 * kMicrosecond + rows * 100 * kMicrosecond + static_cast<Nanos>(random.below(50'000));
    controller.observe({rows, now_ns, now_ns + took_ns, false});
    now_ns += took_ns;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  FixedController fixed(64);
  AimdController aimd;
  DeadlineController deadline;
  bench.compare("decide and observe", 50'000,
                {{"fixed", [&](auto n) { decide_and_observe(fixed, n); }},
                 {"aimd", [&](auto n) { decide_and_observe(aimd, n); }},
                 {"deadline", [&](auto n) { decide_and_observe(deadline, n); }}});
  return 0;
}
