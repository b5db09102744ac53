#include "serving/query.h"

#include <algorithm>
#include <thread>

#include "base/parker.h"
#include "serving/shadow.h"
#include "serving/stages.h"

namespace clipper {
namespace {

// The ask's word, from the top:
// generation : 24 | attempt : 8 | sealed : 1 | writers : 7 | remaining : 24
constexpr int kWritersShift = 24;
constexpr std::uint64_t kWriter = std::uint64_t{1} << kWritersShift;
constexpr std::uint64_t kWritersMask = std::uint64_t{0x7f} << kWritersShift;
constexpr std::uint64_t kSealed = std::uint64_t{1} << 31;
constexpr int kAttemptShift = 32;
constexpr int kGenerationShift = 40;
constexpr std::uint64_t kRemainingMask = kWriter - 1;

std::uint64_t stamp(std::uint32_t generation, std::uint16_t attempt) {
  return (std::uint64_t{generation & 0xffffffu} << kGenerationShift) |
         (std::uint64_t{attempt & 0xffu} << kAttemptShift);
}

constexpr std::uint64_t kStampMask = ~std::uint64_t{0} << kAttemptShift;

bool is_current(std::uint64_t word, const Handle& handle) {
  return (word & (kStampMask | kSealed)) == stamp(handle.generation, handle.attempt);
}

// Stands in Query::mailbox once the decision is taken.
Mailbox* closed_mailbox() { return reinterpret_cast<Mailbox*>(std::uintptr_t{1}); }

}  // namespace

void OutputRows::allocate(const OutputLayout& layout, std::uint32_t rows) {
  const std::size_t bytes = rows * layout.row_bytes();
  // Not cleared: written before it is read.
  if (bytes > kInlineBytes) heap_.reset(new std::byte[bytes]);
  if (layout.is_fixed()) return;
  layout.prepare(data(), rows);
  layout_ = &layout;
  rows_ = rows;
}

void OutputRows::clear() noexcept {
  if (layout_ != nullptr) layout_->clear(data(), rows_);
  layout_ = nullptr;
  heap_.reset();
}

void Ask::open(Deployment* deployment, const OutputLayout* layout, const Choice& choice,
               std::uint32_t rows, std::uint32_t generation) {
  deployment_ = deployment;
  model_index_ = choice.model;
  propensity_ = choice.propensity;
  cause_ = kPending;
  if (rows > 1) {
    row_causes_.reset(new Cause[rows]);
    std::fill_n(row_causes_.get(), rows, kPending);
  } else {
    row_causes_.reset();
  }
  outputs_.clear();
  if (layout != nullptr) outputs_.allocate(*layout, rows);
  started_ns_.store(0, std::memory_order_relaxed);
  error_id_.store(0, std::memory_order_relaxed);
  word_.store(stamp(generation, 0) | rows, std::memory_order_release);
}

bool Ask::wants(const Handle& handle) const noexcept {
  return is_current(word_.load(std::memory_order_acquire), handle);
}

bool Ask::begin_write(const Handle& handle) noexcept {
  std::uint64_t word = word_.load(std::memory_order_relaxed);
  for (;;) {
    if (!is_current(word, handle)) return false;
    if ((word & kWritersMask) == kWritersMask) {  // 127 writers at once: let one of them leave
      std::this_thread::yield();
      word = word_.load(std::memory_order_relaxed);
    } else if (word_.compare_exchange_weak(word, word + kWriter, std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
      return true;
    }
  }
}

bool Ask::publish(std::uint32_t rows) noexcept {
  const std::uint64_t word = word_.fetch_sub(rows, std::memory_order_acq_rel) - rows;
  return (word & kRemainingMask) == 0;
}

void Ask::end_write() noexcept { word_.fetch_sub(kWriter, std::memory_order_release); }

bool Ask::seal() noexcept {
  std::uint64_t word = word_.fetch_or(kSealed, std::memory_order_acq_rel);
  while ((word & kWritersMask) != 0) {
    std::this_thread::yield();
    word = word_.load(std::memory_order_acquire);
  }
  return (word & kRemainingMask) != 0;
}

void Ask::set_cause(std::uint32_t offset, std::uint32_t rows, Cause cause) noexcept {
  if (!row_causes_) {
    cause_ = cause;
    return;
  }
  for (std::uint32_t i = offset; i < offset + rows; ++i) row_causes_[i] = cause;
}

void Ask::note(Nanos started_ns, std::uint32_t error_id) noexcept {
  if (started_ns != 0) started_ns_.store(started_ns, std::memory_order_relaxed);
  if (error_id != 0) error_id_.store(error_id, std::memory_order_relaxed);
}

void Ask::settle(std::uint32_t rows, Cause cause) noexcept {
  if (!row_causes_) {
    if (cause_ == kPending) cause_ = cause;
    return;
  }
  std::replace(row_causes_.get(), row_causes_.get() + rows, kPending, cause);
}

std::uint32_t Ask::rows_left() const noexcept {
  return static_cast<std::uint32_t>(word_.load(std::memory_order_acquire) & kRemainingMask);
}

Query::Query() = default;

Query::~Query() { delete[] more_asks_.load(std::memory_order_relaxed); }

void Query::make_room(std::size_t count) {
  if (count > 1 && more_asks_.load(std::memory_order_relaxed) == nullptr) {
    more_asks_.store(new Ask[kMaxAsks - 1], std::memory_order_release);
  }
}

void Query::open() noexcept {
  end_cause.store(Cause::kNone, std::memory_order_relaxed);
  // Sequentially consistent: submit() looks at the reaper's time and at closed_ next, while reap()
  // and close() write those and then look at this. One of the two sees the other.
  phase.store(generation << kGenerationShift, std::memory_order_seq_cst);
}

bool Query::finish(Cause cause, Nanos now_ns) noexcept {
  if (!is_open(phase.fetch_or(kFinishing, std::memory_order_acq_rel))) return false;
  publish_decision(cause, now_ns);
  return true;
}

bool Query::finish_if(std::uint32_t open_phase, Cause cause, Nanos now_ns) noexcept {
  // A waiter may set kAwaited meanwhile: that alone is no reason to give up.
  std::uint32_t seen = open_phase & ~kAwaited;
  if (!phase.compare_exchange_strong(seen, seen | kFinishing, std::memory_order_acq_rel)) {
    seen = open_phase | kAwaited;
    if (!phase.compare_exchange_strong(seen, seen | kFinishing, std::memory_order_acq_rel)) {
      return false;
    }
  }
  publish_decision(cause, now_ns);
  return true;
}

void Query::publish_decision(Cause cause, Nanos now_ns) noexcept {
  end_cause.store(cause, std::memory_order_relaxed);
  done_ns.store(now_ns, std::memory_order_relaxed);
  // Before kDone, because an owner without a mailbox may reuse the query right after it; an owner
  // with one waits for the letter.
  Mailbox* box = mailbox.exchange(closed_mailbox(), std::memory_order_acq_rel);
  if ((phase.fetch_or(kDone, std::memory_order_acq_rel) & kAwaited) != 0) wake_all(phase);
  if (box != nullptr) box->post(*this);
}

bool Query::attach(Mailbox& box) noexcept {
  Mailbox* none = nullptr;
  return mailbox.compare_exchange_strong(none, &box, std::memory_order_acq_rel);
}

}  // namespace clipper
