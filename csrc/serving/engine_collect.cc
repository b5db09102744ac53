// The owner's side of the engine: waiting for a query, and making one answer of what came.
#include <algorithm>
#include <array>
#include <span>

#include "base/parker.h"
#include "serving/engine.h"
#include "serving/stages.h"

namespace clipper {
namespace {

constexpr Nanos kSpinAtMost = 50 * kMicrosecond;

void relax() noexcept { __builtin_ia32_pause(); }

}  // namespace

// Spinning costs a core, parking about 20 us of latency: spin only when the answer is that near.
void Engine::spin(const Query& query) const noexcept {
  const Deployment* deployment = query.asks == 1 ? query.first_ask.deployment() : nullptr;
  if (deployment == nullptr || deployment->waiting_rows() > 0) return;
  const Nanos now_ns = clock_.now_ns();
  Nanos near_ns = kNever;
  for (const auto& replica : deployment->replicas()) {
    near_ns = std::min(near_ns, replica->free_at_ns(now_ns));
  }
  if (near_ns - now_ns > kSpinAtMost) return;
  const Nanos until_ns = near_ns + kSpinAtMost / 2;
  while (!query.is_done() && clock_.now_ns() < until_ns) relax();
}

/// False: a signal came.
bool Engine::carry(Query& query, Nanos until_ns) noexcept {
  const bool asks_one = query.asks == 1 && query.plan == nullptr && !query.is_done();
  Deployment* deployment = asks_one ? query.first_ask.deployment() : nullptr;
  if (deployment == nullptr || !deployment->options().callers_carry) return true;
  for (const auto& replica : deployment->replicas()) {
    Courier* courier = replica->loan().borrow();
    if (courier != nullptr) return courier->carry(query, until_ns);
  }
  if (deployment->waiting_rows() > 0) deployment->wake_a_driver();
  return true;
}

WaitResult Engine::wait(Query& query, Nanos until_ns) noexcept {
  if (!carry(query, until_ns) && !query.is_done()) return WaitResult::kInterrupted;
  spin(query);
  for (;;) {
    std::uint32_t phase = query.phase.load(std::memory_order_acquire);
    if ((phase & Query::kDone) != 0) break;
    if (clock_.now_ns() >= until_ns) return WaitResult::kTimedOut;
    if ((phase & Query::kAwaited) == 0 &&
        !query.phase.compare_exchange_weak(phase, phase | Query::kAwaited,
                                           std::memory_order_acq_rel)) {
      continue;
    }
    if (park_until(query.phase, phase | Query::kAwaited, until_ns) == ParkResult::kInterrupted &&
        !query.is_done()) {
      return WaitResult::kInterrupted;
    }
  }
  return WaitResult::kDone;
}

bool Engine::withdraw(Query& query, Cause cause) noexcept {
  return query.finish(cause, clock_.now_ns());
}

void Engine::collect_answers(Query& query) noexcept {
  if (!query.is_done()) query.finish(Cause::kCancelled, clock_.now_ns());
  while (!query.is_done()) relax();  // somebody else is between winning and publishing
  query.reap_at_ns.store(kNever, std::memory_order_relaxed);
  const Cause end_cause = query.end_cause.load(std::memory_order_relaxed);
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Ask& ask = query.ask(i);
    if (ask.seal() && ask.deployment() != nullptr) ask.deployment()->note_dead();
    if (query.plan == nullptr) ask.settle(query.rows, end_cause);
  }
  if (query.plan != nullptr) [[unlikely]]
    settle_stages(query);
}

void Engine::collect(Query& query, Nanos held_ns, Outcome& outcome) {
  collect_answers(query);
  if (held_ns == 0) held_ns = query.done_ns.load(std::memory_order_relaxed);
  note_times(query, held_ns, outcome);
  if (query.plan != nullptr) [[unlikely]] {
    combine_stages(query, outcome);
  } else if (query.asks == 1) {
    take_only_answer(query, outcome);
  } else {
    combine(query, outcome);
  }
  conclude(query, held_ns, outcome);
}

void Engine::note_times(Query& query, Nanos held_ns, Outcome& outcome) noexcept {
  Nanos started_ns = 0;
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Ask& ask = query.ask(i);
    started_ns = std::max(started_ns, ask.started_ns());
    if (outcome.error_id == 0) outcome.error_id = ask.error_id();
  }
  outcome.latency_ns = held_ns - query.arrived_ns;
  outcome.queued_ns = started_ns == 0 ? 0 : std::max<Nanos>(started_ns - query.arrived_ns, 0);
}

/// What follows once the answer is made.
void Engine::conclude(Query& query, Nanos held_ns, Outcome& outcome) noexcept {
  if (query.application->policy && query.application->policy->watches()) watch(query);
  if (query.application->keeps_records) {
    outcome.ticket = feedback_.records().keep(query, outcome, held_ns);
  }
  count(query, outcome, held_ns);
  if (query.shadows != nullptr) [[unlikely]]
    note_given(query, &outcome);
}

void Engine::watch(Query& query) noexcept {
  const auto service_of = [&query](std::uint16_t index) -> Service {
    Ask& ask = query.ask(index);
    const Cause cause = ask.cause(0);
    return {ask.model_index(), cause, cause == Cause::kNone, ask.propensity()};
  };
  const auto tell = [&](std::span<const Service> services) {
    const bool is_news = query.application->policy->watch(services, query.context.state());
    if (is_news) alarm_bell_.ring();
  };
  if (query.asks == 1) {  // as with most policies: room for all takes longer to prepare than this
    const Service only = service_of(0);
    return tell({&only, 1});
  }
  std::array<Service, kMaxAsks> services{};
  for (std::uint16_t i = 0; i < query.asks; ++i) services[i] = service_of(i);
  tell(std::span(services).first(query.asks));
}

void Engine::take_only_answer(Query& query, Outcome& outcome) {
  Ask& ask = query.first_ask;
  outcome.holder = &ask.outputs();
  outcome.outputs = ask.outputs().data();
  if (ask.deployment() != nullptr) outcome.layout = &ask.deployment()->output_layout();
  outcome.causes = query.rows == 1 ? nullptr : ask.causes();
  outcome.cause = ask.cause(0);
  outcome.confidence = outcome.cause == Cause::kNone ? 1.0F : 0.0F;
}

namespace {

const OutputLayout* layout_of(Query& query) noexcept {
  const OutputLayout* layout = nullptr;
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Ask& ask = query.ask(i);
    if (ask.deployment() != nullptr) layout = &ask.deployment()->output_layout();
  }
  return layout;
}

}  // namespace

const OutputLayout* Engine::open_combined(Query& query) {
  static const OutputLayout kNothing;
  const OutputLayout* layout = layout_of(query);
  query.combined.allocate(layout == nullptr ? kNothing : *layout, query.rows);
  query.combined_causes = std::make_unique<Cause[]>(query.rows);
  query.confidences = std::make_unique<float[]>(query.rows);
  return layout;
}

void Engine::close_combined(Query& query, Nanos held_ns, Outcome& outcome) noexcept {
  if (held_ns == 0) held_ns = query.done_ns.load(std::memory_order_relaxed);
  note_times(query, held_ns, outcome);
  give_combined(query, outcome);
  conclude(query, held_ns, outcome);
}

void Engine::combine(Query& query, Outcome& outcome) {
  static const OutputLayout kNothing;
  const OutputLayout* layout = open_combined(query);
  if (layout == nullptr) layout = &kNothing;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    query.combined_causes[row] = combine_row(query, row, *layout, query.confidences[row]);
  }
  give_combined(query, outcome);
}

void Engine::give_combined(Query& query, Outcome& outcome) noexcept {
  outcome.layout = layout_of(query);
  outcome.holder = &query.combined;
  outcome.outputs = query.combined.data();
  outcome.causes = query.combined_causes.get();
  outcome.confidences = query.confidences.get();
  outcome.cause = outcome.causes[0];
  outcome.confidence = outcome.confidences[0];
}

Cause Engine::combine_row(Query& query, std::uint32_t row, const OutputLayout& layout,
                          float& confidence) {
  std::array<Answer, kMaxAsks> answers{};
  Cause why = Cause::kNone;
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Ask& ask = query.ask(i);
    answers[i].model = ask.model_index();
    const Cause cause = ask.cause(row);
    if (cause == Cause::kNone) {
      answers[i].output = ask.outputs().data() + row * layout.row_bytes();
    } else if (why == Cause::kNone) {
      why = cause;
    }
  }
  const Application& application = *query.application;
  std::byte* output = query.combined.data() + row * layout.row_bytes();
  const Combined combined = application.policy->combine(std::span(answers).first(query.asks),
                                                        query.context.state(), layout, output);
  confidence = combined.confidence;
  // All answered and no answer could be made of it: numbers that are not finite have no mean.
  if (!combined.answered) return why == Cause::kNone ? Cause::kModelError : why;
  if (combined.winner != Combined::kWritten &&
      !layout.copy(answers[combined.winner].output, output)) {
    return Cause::kOverload;
  }
  return combined.confidence < application.min_confidence ? Cause::kLowConfidence : Cause::kNone;
}

void Engine::count(Query& query, Outcome& outcome, Nanos held_ns) noexcept {
  Application& application = *query.application;
  application.latency_ns.record(outcome.latency_ns);
  std::uint32_t answered = 0;
  if (outcome.causes == nullptr) {
    application.rows_by_cause[static_cast<std::size_t>(outcome.cause)].fetch_add(
        query.rows, std::memory_order_relaxed);
    answered = outcome.cause == Cause::kNone ? query.rows : 0;
  } else {
    std::array<std::uint32_t, kCauses> counts{};
    for (std::uint32_t row = 0; row < query.rows; ++row) {
      ++counts[static_cast<std::size_t>(outcome.causes[row])];
    }
    for (std::size_t cause = 0; cause < kCauses; ++cause) {
      if (counts[cause] == 0) continue;
      application.rows_by_cause[cause].fetch_add(counts[cause], std::memory_order_relaxed);
    }
    answered = counts[0];
  }
  outcome.all_answered = answered == query.rows;
  if (held_ns <= query.deadline_ns) {
    application.rows_in_time.fetch_add(answered, std::memory_order_relaxed);
  }
}

void Engine::release(Query& query) noexcept {
  if (query.shadows != nullptr) [[unlikely]]
    note_given(query, nullptr);
  query.context.release();
  query.combined.clear();
  query.combined_causes.reset();
  query.confidences.reset();
  for (std::uint16_t i = 0; i < query.asks; ++i) query.ask(i).outputs().clear();
  if (query.plan != nullptr) query.stages->clear();
  queries_.release(query);
}

}  // namespace clipper
