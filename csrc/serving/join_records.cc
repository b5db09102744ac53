#include "serving/join_records.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "serving/engine.h"

namespace clipper {
namespace {

constexpr std::size_t kGrain = 64;      // records are multiples of it
constexpr std::size_t kAlignment = 16;  // of what ragged cells own

constexpr std::size_t round_up(std::size_t bytes, std::size_t to) {
  return (bytes + to - 1) / to * to;
}

// Whatever is left at the ring's end has room for a filler.
static_assert(sizeof(JoinRecord) <= kGrain);
static_assert(alignof(JoinRecord) >= alignof(JoinRecord::Asked) &&
              alignof(JoinRecord::Asked) >= alignof(JoinRecord::Row));
static_assert(kMaxAsks <= 32, "a row has a bit for each");

const OutputLayout* layout_of(Query& query) {
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    if (Deployment* deployment = query.ask(i).deployment()) return &deployment->output_layout();
  }
  return nullptr;
}

/// Bytes that ragged cells of one row own.
std::size_t owned_bytes(const std::byte* row, const OutputLayout& layout) {
  std::size_t bytes = 0;
  for (const OutputLayout::Column& column : layout.columns()) {
    if (!column.ragged) continue;
    const auto items = static_cast<std::size_t>(OutputLayout::cell(row, column).items);
    bytes += round_up(items * column.item_bytes, kAlignment);
  }
  return bytes;
}

std::size_t owned_bytes(Query& query, const OutputLayout& layout) {
  std::size_t bytes = 0;
  if (layout.is_fixed()) return bytes;
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Ask& ask = query.ask(i);
    for (std::uint32_t row = 0; row < query.rows; ++row) {
      if (ask.cause(row) != Cause::kNone) continue;
      bytes += owned_bytes(ask.outputs().data() + row * layout.row_bytes(), layout);
    }
  }
  return bytes;
}

/// Copies a row; what its cells own goes to `values`, which is moved on.
void copy_row(const std::byte* from, std::byte* to, const OutputLayout& layout,
              std::byte*& values) {
  std::memcpy(to, from, layout.row_bytes());
  if (layout.is_fixed()) return;
  for (const OutputLayout::Column& column : layout.columns()) {
    if (!column.ragged) continue;
    RaggedCell& cell = OutputLayout::cell(to, column);
    const std::size_t bytes = static_cast<std::size_t>(cell.items) * column.item_bytes;
    if (bytes > 0) std::memcpy(values, cell.data, bytes);
    cell.data = values;
    values += round_up(bytes, kAlignment);
  }
}

/// Writes one row of the record: all models' answers, and which of them was the one given.
void write_row(JoinRecord& record, std::uint32_t index, Query& query, const Outcome& outcome,
               std::byte*& values) {
  JoinRecord::Row& row = *new (&record.row(index)) JoinRecord::Row{};
  const Cause cause = outcome.causes == nullptr ? outcome.cause : outcome.causes[index];
  const std::size_t offset = record.layout == nullptr ? 0 : index * record.layout->row_bytes();
  for (std::uint16_t i = 0; i < record.asks; ++i) {
    Ask& ask = query.ask(i);
    if (ask.cause(index) != Cause::kNone) continue;
    const std::byte* output = ask.outputs().data() + offset;
    copy_row(output, record.output(i, index), *record.layout, values);
    row.answered |= 1u << i;
    const std::byte* answer = outcome.outputs + offset;
    if (cause == Cause::kNone && (output == answer || record.layout->equal(output, answer))) {
      row.given |= 1u << i;
    }
  }
}

}  // namespace

JoinRecords::JoinRecords(const Options& options)
    : capacity_(std::max(options.bytes / kGrain, std::size_t{1}) * kGrain),
      window_ns_(options.window_ns),
      head_(capacity_),
      tail_(capacity_) {}

JoinRecords::~JoinRecords() {
  if (memory_ != nullptr) ::munmap(memory_, capacity_);
}

std::uint64_t JoinRecords::keep(Query& query, const Outcome& outcome, Nanos now_ns) noexcept {
  const OutputLayout* layout = layout_of(query);
  const std::size_t row_bytes = layout == nullptr ? 0 : layout->row_bytes();
  const std::size_t fixed = round_up(JoinRecord::outputs_offset(query.asks, query.rows) +
                                         std::size_t{query.asks} * query.rows * row_bytes,
                                     kAlignment);
  const std::size_t owned = layout == nullptr ? 0 : owned_bytes(query, *layout);
  JoinRecord* record = reserve(round_up(fixed + owned, kGrain), query.rows, now_ns);
  if (record == nullptr) return kNotKept;

  record->application = query.application;
  record->layout = layout;
  record->context = query.context_key;
  record->has_context = query.has_context;
  record->asks = query.asks;
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Ask& ask = query.ask(i);
    new (&record->asked(i))
        JoinRecord::Asked{ask.model_index(), ask.propensity(), ask.deployment()};
  }
  std::byte* values = reinterpret_cast<std::byte*>(record) + fixed;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    write_row(*record, row, query, outcome, values);
  }
  const std::uint64_t ticket = record->ticket;
  // Pairs with the acquire of who finds it, however the ticket got there.
  record->users.fetch_sub(JoinRecord::kWriting, std::memory_order_release);
  return ticket;
}

RecordPin JoinRecords::find(std::uint64_t ticket, Nanos now_ns, FeedbackStatus& status) noexcept {
  const std::scoped_lock lock(mutex_);
  status = FeedbackStatus::kUnknown;
  if (ticket == kNoTicket || ticket >= head_) return {};
  status = FeedbackStatus::kExpired;
  if (ticket < tail_) return {};
  JoinRecord& record = at(ticket);
  if (now_ns - record.kept_ns > window_ns_) return {};
  const bool is_written =
      (record.users.fetch_add(1, std::memory_order_acquire) & JoinRecord::kWriting) == 0;
  status = is_written ? FeedbackStatus::kApplied : FeedbackStatus::kUnknown;
  RecordPin pin(record);
  return is_written ? std::move(pin) : RecordPin();
}

JoinRecords::Statistics JoinRecords::statistics() noexcept {
  const std::scoped_lock lock(mutex_);
  return {records_, head_ - tail_};
}

JoinRecord* JoinRecords::reserve(std::size_t bytes, std::uint32_t rows, Nanos now_ns) noexcept {
  if (bytes > capacity_) return nullptr;
  const std::scoped_lock lock(mutex_);
  if (memory_ == nullptr && !map_memory()) return nullptr;
  if (!make_room(bytes, now_ns)) return nullptr;
  JoinRecord& record = append(bytes, rows, now_ns);
  record.users.store(JoinRecord::kWriting, std::memory_order_relaxed);
  ++records_;
  return &record;
}

bool JoinRecords::make_room(std::size_t bytes, Nanos now_ns) noexcept {
  // With each record that comes two go that are too old, so that what is counted is what is valid.
  for (int i = 0; i < 2 && tail_ < head_ && now_ns - at(tail_).kept_ns > window_ns_; ++i) {
    if (!drop_oldest()) break;
  }
  const std::size_t left = capacity_ - head_ % capacity_;
  const bool fits_before_the_end = bytes <= left;
  const std::size_t needed = fits_before_the_end ? bytes : left + bytes;
  while (tail_ < head_ && head_ + needed - tail_ > capacity_) {
    if (!drop_oldest()) return false;
  }
  if (fits_before_the_end) return true;
  if (tail_ == head_) {
    tail_ = head_ = head_ + left;
  } else {
    append(left, 0, now_ns);
  }
  return true;
}

// False: somebody uses it.
bool JoinRecords::drop_oldest() noexcept {
  const JoinRecord& oldest = at(tail_);
  // Pairs with the release of whoever has written or read it last.
  if (oldest.users.load(std::memory_order_acquire) != 0) return false;
  if (oldest.rows > 0) --records_;
  tail_ += oldest.bytes;
  return true;
}

JoinRecord& JoinRecords::append(std::size_t bytes, std::uint32_t rows, Nanos now_ns) noexcept {
  JoinRecord& record = *new (&at(head_)) JoinRecord{};
  record.ticket = head_;
  record.bytes = bytes;
  record.kept_ns = now_ns;
  record.rows = rows;
  head_ += bytes;
  return record;
}

bool JoinRecords::map_memory() noexcept {
  void* mapped = ::mmap(nullptr, capacity_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return false;
  memory_ = static_cast<std::byte*>(mapped);
  return true;
}

}  // namespace clipper
