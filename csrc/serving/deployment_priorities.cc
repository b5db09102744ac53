// What a deployment does only where queries of several priorities wait.
#include <algorithm>

#include "serving/deployment.h"

namespace clipper {

std::uint32_t Deployment::rows_of_rank(Priority priority) const noexcept {
  std::int64_t others = 0;  // than those of priority 0, whose rows only the total counts
  for (const auto& rows : waiting_by_priority_) others += rows.load(std::memory_order_relaxed);
  const auto rank = static_cast<std::size_t>(priority - kLeastPriority);
  const std::int64_t rows = priority == 0
                                ? std::int64_t{waiting_rows()} - others
                                : waiting_by_priority_[rank].load(std::memory_order_relaxed);
  return static_cast<std::uint32_t>(std::max<std::int64_t>(rows, 0));
}

void Deployment::count_by_priority(Priority priority, std::int64_t rows) noexcept {
  const auto rank = static_cast<std::size_t>(priority - kLeastPriority);
  waiting_by_priority_[rank].fetch_add(rows, std::memory_order_relaxed);
  has_priorities_.store(true, std::memory_order_relaxed);
}

/// Whose turn it is, in each lane. Rows of other ranks that could not make it even if it were
/// theirs are answered.
void Deployment::choose_ranks(const Replica& replica, Nanos now_ns,
                              std::vector<DroppedRows>& dropped) {
  for (std::size_t lane = 0; lane < windows_.size(); ++lane) {
    Window& window = windows_[lane];
    const Controller& controller = replica.controller(static_cast<Lane>(lane));
    window.choose_rank([&](std::uint32_t rows) { return controller.run_bound_ns(rows); });
    if (!window.has_several_ranks()) continue;
    const Nanos shortest_ns = controller.is_warm() ? controller.run_bound_ns(1) : 0;
    const Nanos done_ns = saturating_add(replica.free_at_ns(now_ns), shortest_ns);
    window.drop_lost_heads([&](const WaitingRows& head) { return head.deadline_ns < done_ns; },
                           [&] {
                             if (!drop_dead_head(window, now_ns, dropped)) {
                               drop_or_pass_head(window, Cause::kOverload, now_ns, dropped);
                             }
                           });
  }
}

/// Rows for a batch of which the controller would make `rows` of the chosen rank alone. It takes at
/// most half the objective if another rank was passed over for it, or lends it rows, so that who
/// comes meanwhile can still make it. Where it has room, the controller is asked for each further
/// rank what it would do if all were of that one: its heads, too, may stand in the way.
std::uint32_t Deployment::rows_among_ranks(Window& window, Replica& replica, Nanos now_ns,
                                           std::uint32_t rows, std::vector<DroppedRows>& dropped) {
  const auto lane = static_cast<Lane>(&window - windows_.data());
  const Controller& controller = replica.controller(lane);
  const Nanos free_at_ns = replica.free_at_ns(now_ns);
  const WaitingRows& own = window.head();
  const Nanos slo_ns = own.deadline_ns == kNever ? kNever : own.deadline_ns - own.arrived_ns;
  const std::uint32_t most =
      std::clamp(controller.batch_limit(slo_ns == kNever ? kNever : slo_ns / 2), 1U, max_batch());
  if (!window.is_most_urgent_chosen()) rows = std::min(rows, most);
  if (rows < window.rank_rows() || !controller.is_warm()) return rows;
  Nanos due_ns = own.deadline_ns;
  std::size_t rank = window.next_rank();
  while (rank < Window::kRanks && rows < most) {
    const DeadlineOrder& next = window.of_rank(rank);
    const WaitingRows& head = next.head();
    const Decision decision = controller.foresee(
        {now_ns, free_at_ns, head.deadline_ns, head.arrived_ns, std::min(most, rows + next.rows()),
         arrived_rows_.load(std::memory_order_relaxed), next.tail_deadline_ns()});
    if (decision.kind == Decision::Kind::kDrop) {
      window.with_rank(rank, [&] { drop_or_pass_head(window, Cause::kOverload, now_ns, dropped); });
      if (!window.has_rows(rank)) rank = window.rank_below(rank);
      continue;
    }
    const std::uint32_t all = std::min(decision.rows, most);
    const Nanos done_ns = saturating_add(free_at_ns, controller.run_bound_ns(all));
    if (decision.kind != Decision::Kind::kRun || all <= rows || done_ns > due_ns) break;
    const bool takes_rank = all == rows + next.rows();
    rows = all;
    if (!takes_rank) break;
    due_ns = std::min(due_ns, head.deadline_ns);
    rank = window.rank_below(rank);
  }
  return rows;
}

}  // namespace clipper
