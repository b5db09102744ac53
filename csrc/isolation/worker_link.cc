#include "isolation/worker_link.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <span>

#include "base/utf8.h"

namespace clipper {
namespace {

constexpr std::size_t kCacheLine = 64;
// A copied batch that took more than this gives its pages back.
constexpr std::size_t kKeepCopied = std::size_t{4} << 20;

std::size_t align_up(std::size_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

BlockLayout lay_out_outputs(const RowSpec& spec, std::uint32_t rows, std::size_t ragged_bytes) {
  const auto ragged = static_cast<std::size_t>(
      std::count_if(spec.columns.begin(), spec.columns.end(),
                    [](const TensorSpec& tensor) { return tensor.ragged; }));
  std::vector<std::int64_t> items;
  for (const TensorSpec& tensor : spec.columns) {
    if (!tensor.ragged) continue;
    items.push_back(static_cast<std::int64_t>(
        std::max<std::size_t>(ragged_bytes / ragged / tensor.item_bytes(), 1)));
  }
  return {spec, rows, items};
}

std::string number(std::uint64_t value) { return std::to_string(value); }

}  // namespace

WorkerLink::WorkerLink(Deployment& deployment, const LinkOptions& options)
    : deployment_(deployment),
      text_outputs_(options.text_outputs),
      output_layout_(lay_out_outputs(deployment.options().output, deployment.most_batch_rows(),
                                     options.ragged_output_bytes)),
      text_at_(align_up(output_layout_.bytes())),
      control_("a worker's control words", sizeof(ControlWords), Access::kShared) {
  for (auto& segment : output_segments_) {
    segment = std::make_unique<SealedMemory>("a worker's outputs", text_at_ + kTextBytes,
                                             Access::kShared);
  }
  if (deployment.options().input.is_ragged()) {
    // No block on the heap is larger than the budget; each column may be moved up to a cache line.
    const std::size_t most = deployment.options().row_budget_bytes + kMaxColumns * 2 * kCacheLine;
    for (auto& segment : copies_) {
      segment = std::make_unique<SealedMemory>("ragged rows", most, Access::kReadOnly);
    }
  }
  ControlWords* words = new (control_.data()) ControlWords{};
  words->magic = kControlMagic;
  words->version = kProtocolVersion;
  words->slots = kLinkSlots;
}

std::vector<int> WorkerLink::descriptors() const {
  std::vector<int> fds{posted_bell_.fd(), finished_bell_.fd(), control_.fd(),
                       deployment_.blocks().memory().fd(), deployment_.staging().memory().fd()};
  for (const auto& segment : output_segments_) fds.push_back(segment->fd());
  for (const auto& segment : copies_) {
    if (segment != nullptr) fds.push_back(segment->fd());
  }
  return fds;
}

std::vector<std::uint64_t> WorkerLink::segment_bytes() const {
  std::vector<std::uint64_t> bytes{control_.bytes(), deployment_.blocks().memory().bytes(),
                                   deployment_.staging().memory().bytes()};
  for (const auto& segment : output_segments_) bytes.push_back(segment->bytes());
  for (const auto& segment : copies_) {
    if (segment != nullptr) bytes.push_back(segment->bytes());
  }
  return bytes;
}

// ---- the way to the worker ----------------------------------------------------------------------

bool WorkerLink::post(const RowRun& run) noexcept {
  const std::uint64_t sequence = posted_ + 1;
  const std::size_t place = sequence % kLinkSlots;
  SlotWords& slot = control().slot[place];
  slot.sequence = sequence;
  slot.rows = run.rows;
  if (run.block->own_memory != nullptr) {
    slot.segment = static_cast<std::uint32_t>(Segment::kCopy);
    if (!copy(slot, run, *copies_[place])) return false;
  } else {
    const bool is_staged = run.block->pool == &deployment_.staging();
    slot.segment = static_cast<std::uint32_t>(is_staged ? Segment::kStaging : Segment::kRows);
    describe(slot, run, run.block->pool->memory().data());
  }
  posted_ = sequence;
  control().posted.store(sequence, std::memory_order_release);
  posted_bell_.signal();
  return true;
}

void WorkerLink::describe(SlotWords& slot, const RowRun& run, const std::byte* begin) noexcept {
  const BlockLayout& layout = *run.block->layout;
  for (std::size_t c = 0; c < layout.columns().size(); ++c) {
    const bool is_ragged = layout.columns()[c].ragged;
    const std::byte* data = layout.row(run.block->data, c, is_ragged ? 0 : run.first);
    slot.inputs[c].data_at = static_cast<std::uint64_t>(data - begin);
    if (!is_ragged) continue;
    const auto* offsets =
        reinterpret_cast<const std::byte*>(layout.offsets(run.block->data, c) + run.first);
    slot.inputs[c].offsets_at = static_cast<std::uint64_t>(offsets - begin);
  }
}

bool WorkerLink::copy(SlotWords& slot, const RowRun& run, const SealedMemory& into) noexcept {
  const BlockLayout& layout = *run.block->layout;
  std::size_t end = 0;
  const auto put = [&](const void* from, std::size_t bytes) {
    const std::size_t at = align_up(end);
    if (at > into.bytes() || bytes > into.bytes() - at) return false;
    if (bytes > 0) std::memcpy(into.data() + at, from, bytes);
    end = at + bytes;
    return true;
  };
  for (std::size_t c = 0; c < layout.columns().size(); ++c) {
    const std::size_t item_bytes = layout.columns()[c].item_bytes;
    std::size_t first = run.first;
    std::size_t items = run.rows;
    if (layout.columns()[c].ragged) {
      const std::int64_t* offsets = layout.offsets(run.block->data, c) + run.first;
      first = static_cast<std::size_t>(offsets[0]);
      items = static_cast<std::size_t>(offsets[run.rows]) - first;
      slot.inputs[c].offsets_at = align_up(end);
      if (!put(offsets, (std::size_t{run.rows} + 1) * sizeof(std::int64_t))) return false;
      auto* copied = reinterpret_cast<std::int64_t*>(into.data() + slot.inputs[c].offsets_at);
      for (std::uint32_t i = 0; i <= run.rows; ++i) {
        copied[i] -= static_cast<std::int64_t>(first);
      }
    }
    slot.inputs[c].data_at = align_up(end);
    if (!put(layout.row(run.block->data, c, 0) + first * item_bytes, items * item_bytes)) {
      return false;
    }
  }
  copied_bytes_[slot.sequence % kLinkSlots] = end;
  batches_copied.fetch_add(1, std::memory_order_relaxed);
  bytes_copied.fetch_add(end, std::memory_order_relaxed);
  return true;
}

void WorkerLink::close() noexcept {
  control().closing.store(1, std::memory_order_release);
  posted_bell_.signal();
}

// ---- the way back: nothing is believed ----------------------------------------------------------

Reply WorkerLink::take(std::uint32_t rows) {
  const std::uint64_t finished = control().finished.load(std::memory_order_acquire);
  if (finished == taken_) return Reply::kNone;
  const std::uint64_t sequence = taken_ + 1;
  if (finished < sequence || finished > posted_) {
    return nonsense("it says that batch " + number(finished) + " is finished, where batches " +
                    number(sequence) + " to " + number(posted_) + " were in flight");
  }
  const std::size_t place = sequence % kLinkSlots;
  const SlotWords& slot = control().slot[place];
  std::byte* segment = output_segments_[place]->data();
  const std::uint64_t replied = slot.reply_sequence.load(std::memory_order_relaxed);
  const std::uint32_t status = slot.status.load(std::memory_order_relaxed);
  if (replied != sequence) {
    return nonsense("the reply to batch " + number(sequence) + " is numbered " + number(replied));
  }
  if (copied_bytes_[place] > kKeepCopied) copies_[place]->clear();
  copied_bytes_[place] = 0;
  if (status == static_cast<std::uint32_t>(ReplyStatus::kModelError)) {
    const std::uint64_t bytes = slot.text_bytes.load(std::memory_order_relaxed);
    if (bytes > kTextBytes) {
      return nonsense("its error has a text of " + number(bytes) + " bytes, more than " +
                      number(kTextBytes));
    }
    text_.assign(reinterpret_cast<const char*>(segment + text_at_), bytes);
    taken_ = sequence;
    return Reply::kModelError;
  }
  const std::uint32_t replied_rows = slot.reply_rows.load(std::memory_order_relaxed);
  if (status != static_cast<std::uint32_t>(ReplyStatus::kOutputs)) {
    return nonsense("its reply has the status " + number(status) + ", which there is not");
  }
  if (replied_rows != rows) {
    return nonsense("it answered a batch of " + number(rows) + " rows with " +
                    number(replied_rows));
  }
  if (!read_outputs(segment, rows)) return Reply::kNonsense;
  taken_ = sequence;
  return Reply::kOutputs;
}

bool WorkerLink::read_outputs(std::byte* segment, std::uint32_t rows) {
  for (std::size_t c = 0; c < output_layout_.columns().size(); ++c) {
    outputs_[c].data = output_layout_.row(segment, c, 0);
    if (output_layout_.columns()[c].ragged && !read_ragged(segment, c, rows)) return false;
  }
  return true;
}

bool WorkerLink::read_ragged(std::byte* segment, std::size_t column, std::uint32_t rows) {
  std::vector<std::int64_t>& offsets = offsets_[column];
  const std::int64_t* theirs = output_layout_.offsets(segment, column);
  offsets.assign(theirs, theirs + rows + 1);
  const std::int64_t most = output_layout_.columns()[column].items;
  bool rises = offsets.front() == 0 && offsets.back() <= most;
  for (std::uint32_t i = 0; i < rows; ++i) rises = rises && offsets[i] <= offsets[i + 1];
  if (!rises) {
    static_cast<void>(nonsense("the offsets of its output " + number(column) +
                               " do not rise from 0 to " +
                               number(static_cast<std::uint64_t>(most)) + " at most"));
    return false;
  }
  outputs_[column].offsets = offsets.data();
  const bool is_text = column < text_outputs_.size() && text_outputs_[column];
  return !is_text || check_text(column, rows);
}

bool WorkerLink::check_text(std::size_t column, std::uint32_t rows) {
  const std::vector<std::int64_t>& offsets = offsets_[column];
  std::vector<std::byte>& own = texts_[column];
  own.assign(outputs_[column].data, outputs_[column].data + offsets.back());
  for (std::uint32_t i = 0; i < rows; ++i) {
    const auto bytes = static_cast<std::size_t>(offsets[i + 1] - offsets[i]);
    if (is_utf8(own.data() + offsets[i], bytes)) continue;
    static_cast<void>(nonsense("row " + number(i) + " of its output " + number(column) +
                               " is not UTF-8, but should be text"));
    return false;
  }
  outputs_[column].data = own.data();
  return true;
}

std::uint64_t WorkerLink::running() const noexcept {
  const std::uint64_t said = control().running.load(std::memory_order_acquire);
  return said >= taken_ && said <= posted_ ? said : taken_ + 1;
}

Reply WorkerLink::nonsense(std::string what) {
  text_ = std::move(what);
  return Reply::kNonsense;
}

}  // namespace clipper
