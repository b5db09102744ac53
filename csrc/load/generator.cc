#include "load/generator.h"

#include <poll.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <exception>

namespace clipper {
namespace {

// Between the call and the first possible arrival, for the thread to get going.
constexpr Nanos kLead = kMillisecond;
// Sleeping ends this long before an arrival: what a wake-up usually takes, twice.
constexpr Nanos kSpinBefore = 100 * kMicrosecond;

void relax() noexcept { __builtin_ia32_pause(); }

/// While it lives the kernel does not round this thread's sleeps up (by 50 us, usually).
class PreciseSleep {
 public:
  PreciseSleep() noexcept : before_(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)) { set(1); }
  ~PreciseSleep() { set(static_cast<unsigned long>(std::max(before_, 0))); }  // 0: the default
  PreciseSleep(const PreciseSleep&) = delete;
  PreciseSleep& operator=(const PreciseSleep&) = delete;

 private:
  static void set(unsigned long slack_ns) noexcept { prctl(PR_SET_TIMERSLACK, slack_ns, 0, 0, 0); }
  int before_;
};

}  // namespace

LoadGenerator::LoadGenerator(Engine& engine, Application& application, const LoadPlan& plan,
                             const LoadRecord& record)
    : engine_(engine), application_(application), plan_(plan), record_(record) {
  open_.resize(plan.arrivals, nullptr);
  std::fill_n(record.causes, plan.arrivals, kPending);
}

void LoadGenerator::run() noexcept {
  const PreciseSleep precise;
  mailbox_.set_awake(true);
  begin(engine_.clock().now_ns() + kLead);
  while (!stopping_.load(std::memory_order_seq_cst)) {
    const Nanos due_ns = turn();
    if (ended() == plan_.arrivals) break;
    wait(due_ns);
  }
  withdraw_open();
  while (ended() < asked()) {
    wait(kNever);
    take_ended();
  }
  mailbox_.set_awake(false);
}

void LoadGenerator::stop() noexcept {
  stopping_.store(true, std::memory_order_seq_cst);
  mailbox_.signal();
}

Nanos LoadGenerator::turn() noexcept {
  take_ended();
  for (std::size_t arrival = asked(); arrival < plan_.arrivals; ++arrival) {
    const Nanos due_ns = start_ns_ + plan_.at_ns[arrival];
    const Nanos now_ns = engine_.clock().now_ns();
    if (now_ns < due_ns) return due_ns;
    if (stopping_.load(std::memory_order_relaxed)) return due_ns;
    ask(arrival, due_ns, now_ns);
    // Also when it is late: an answer that lies unread would look slower than it was.
    take_ended();
  }
  return kNever;
}

void LoadGenerator::ask(std::size_t arrival, Nanos due_ns, Nanos now_ns) noexcept {
  record_.late_ns[arrival] = now_ns - due_ns;
  Asking asking;
  asking.budget_ns = plan_.budget_ns;
  asking.arrived_ns = due_ns;
  asking.mailbox = &mailbox_;
  asking.owner = reinterpret_cast<void*>(arrival);
  Refusal refusal{};
  std::array<ColumnRows, kMaxColumns> row{};
  const std::uint32_t chosen = plan_.chosen[arrival];
  for (std::size_t c = 0; c < plan_.spec->columns.size(); ++c) {
    const TensorSpec& column = plan_.spec->columns[c];
    row[c].data = plan_.pool[c].data + (column.ragged ? 0 : chosen * column.item_bytes());
    if (column.ragged) row[c].offsets = plan_.pool[c].offsets + chosen;
  }
  open_[arrival] = engine_.submit(application_, row.data(), 1, asking, refusal);
  asked_.store(arrival + 1, std::memory_order_relaxed);
  if (open_[arrival] != nullptr) return;
  const bool is_closed = refusal != Refusal::kOutOfMemory;
  if (is_closed) stopping_.store(true, std::memory_order_relaxed);  // it will refuse all the rest
  note_end(arrival, is_closed ? Cause::kCancelled : Cause::kOverload, now_ns - due_ns);
}

void LoadGenerator::take_ended() noexcept {
  if (mailbox_.empty()) return;
  Letter* letter = mailbox_.take_all();
  while (letter != nullptr) {
    Letter* next = letter->next_letter;
    Query& query = static_cast<Query&>(*letter);
    note(reinterpret_cast<std::size_t>(query.owner), query, engine_.clock().now_ns());
    letter = next;
  }
}

void LoadGenerator::note(std::size_t arrival, Query& query, Nanos now_ns) noexcept {
  Outcome outcome;
  Cause cause = Cause::kOverload;  // no memory to combine what came
  try {
    engine_.collect(query, now_ns, outcome);
    cause = outcome.cause;
  } catch (const std::exception&) {
  }
  std::uint32_t models = 0;
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    if (query.ask(i).cause(0) == Cause::kNone) models |= 1u << query.ask(i).model_index();
  }
  record_.models[arrival] = models;
  if (cause == Cause::kNone) {
    record_.confidences[arrival] = outcome.confidence;
    if (record_.outputs != nullptr &&
        !record_.layout->copy(outcome.outputs,
                              record_.outputs + arrival * record_.layout->row_bytes())) {
      cause = Cause::kOverload;
    }
    // It waits for answers as any caller does: what that costs is what deadlines leave room for.
    engine_.reserve().observe(now_ns - query.done_ns.load(std::memory_order_relaxed));
  }
  note_end(arrival, cause, now_ns - query.arrived_ns);
  open_[arrival] = nullptr;
  engine_.release(query);
}

void LoadGenerator::note_end(std::size_t arrival, Cause cause, Nanos latency_ns) noexcept {
  record_.causes[arrival] = cause;
  record_.latency_ns[arrival] = latency_ns;
  ended_.store(ended() + 1, std::memory_order_relaxed);
}

// Their letters are still to come, and until then they are ours.
void LoadGenerator::withdraw_open() noexcept {
  for (std::size_t arrival = 0; arrival < asked(); ++arrival) {
    if (open_[arrival] != nullptr) engine_.withdraw(*open_[arrival], Cause::kCancelled);
  }
}

void LoadGenerator::wait(Nanos due_ns) noexcept {
  const Nanos left_ns = due_ns == kNever ? kNever : due_ns - kSpinBefore - engine_.clock().now_ns();
  if (left_ns <= 0) return relax();
  mailbox_.set_awake(false);
  const timespec left{static_cast<time_t>(left_ns / kSecond), static_cast<long>(left_ns % kSecond)};
  pollfd doorbell{mailbox_.fd(), POLLIN, 0};
  static_cast<void>(ppoll(&doorbell, 1, due_ns == kNever ? nullptr : &left, nullptr));
  mailbox_.set_awake(true);
  mailbox_.clear_signal();
}

}  // namespace clipper
