#include "serving/deployment.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace clipper {
namespace {

std::size_t staging_budget(const DeploymentOptions& options) {
  return std::max(options.row_budget_bytes, 4 * options.max_batch * options.input.row_bytes());
}

bool follows(const WaitingRows& before, const WaitingRows& after) {
  return after.run.block == before.run.block &&
         after.run.first == before.run.first + before.run.rows;
}

bool lies_before(const WaitingRows& a, const WaitingRows& b) {
  return a.run.block != b.run.block ? std::less<>{}(a.run.block, b.run.block)
                                    : a.run.first < b.run.first;
}

bool is_one_run(const std::vector<WaitingRows>& entries) {
  return std::adjacent_find(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
           return !follows(a, b);
         }) == entries.end();
}

}  // namespace

Deployment::Deployment(DeploymentOptions options, QueryTable& queries)
    : options_(std::move(options)),
      queries_(queries),
      input_row_bytes_(options_.input.row_bytes()),
      output_row_bytes_(options_.output.row_bytes()),
      blocks_(std::make_shared<RowBlocks>(input_row_bytes_, options_.row_budget_bytes, 1)),
      staging_(std::make_shared<RowBlocks>(input_row_bytes_, staging_budget(options_),
                                           options_.max_batch)),
      block_rows_(blocks_->block_rows()),
      max_batch_(std::min(options_.max_batch, staging_->block_rows())),
      queue_(std::make_unique<RequestQueue<WaitingRows>>(options_.max_queue)) {}

Replica& Deployment::add_replica(std::unique_ptr<Controller> controller) {
  replicas_.push_back(
      std::make_unique<Replica>(*this, std::move(controller), options_.most_in_flight));
  return *replicas_.back();
}

bool Deployment::enter(std::uint32_t rows) noexcept {
  outstanding_.fetch_add(rows, std::memory_order_seq_cst);
  if (!is_closed()) return true;
  leave(rows);
  return false;
}

void Deployment::leave(std::uint32_t rows) noexcept {
  outstanding_.fetch_sub(rows, std::memory_order_seq_cst);
}

bool Deployment::admits(Nanos now_ns, std::uint32_t rows, Nanos answer_by_ns) const noexcept {
  if (answer_by_ns == kNever) return true;
  // Rows that are due later than this one wait behind it.
  const bool is_last = answer_by_ns >= last_deadline_ns_.load(std::memory_order_relaxed);
  const std::uint32_t ahead =
      is_last ? waiting_rows() / static_cast<std::uint32_t>(replicas_.size()) : 0;
  for (const auto& replica : replicas_) {
    const Controller& controller = replica->controller();
    if (!controller.is_warm()) return true;
    // Its own rows are drained with those ahead: counted by themselves, they would pay the fixed
    // cost of a batch that they will share.
    const Nanos done_ns = saturating_add(replica->free_at_ns(now_ns),
                                         controller.drain_ns(ahead + rows, answer_by_ns - now_ns));
    if (done_ns <= answer_by_ns) return true;
    // A replica that does nothing is never locked out by a bound alone: its controller may probe.
    if (ahead == 0 && replica->free_at_ns(now_ns) == now_ns && !replica->is_driven()) return true;
  }
  return false;
}

bool Deployment::push(const WaitingRows& entry) noexcept {
  if (waiting_requests_.fetch_add(1, std::memory_order_relaxed) >= options_.max_queue ||
      !queue_->try_push(entry)) {
    waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  if (entry.deadline_ns != kNever) {
    last_deadline_ns_.store(entry.deadline_ns, std::memory_order_relaxed);
  }
  arrived_rows_.fetch_add(entry.run.rows, std::memory_order_seq_cst);
  // After the push: a driver that sees the count finds the rows.
  waiting_rows_.fetch_add(entry.run.rows, std::memory_order_seq_cst);
  return true;
}

void Deployment::wake_a_driver(bool patient) noexcept {
  for (const auto& replica : replicas_) {
    if (!replica->is_driven() && replica->wake_thread(patient)) return;
  }
}

Batch* Deployment::claim(Replica& replica, Nanos now_ns, Nanos run_limit_ns,
                         std::vector<DroppedRows>& dropped, Nanos& retry_at_ns) {
  retry_at_ns = kNever;
  Batch* batch = replica.free_batch();
  // A limit that not even one row keeps is found out before the controller decides: it may spend a
  // probe, which only a driver without a limit can run.
  if (batch == nullptr || replica.controller().run_bound_ns(1) > run_limit_ns) return nullptr;
  {
    const std::scoped_lock lock(window_mutex_);
    drain_queue();
    bury_the_dead();
    while (!window_.empty()) {
      if (drop_dead_head(now_ns, dropped)) continue;
      const WaitingRows& head = window_.head();
      const Decision decision = replica.controller().decide(
          {now_ns, replica.free_at_ns(now_ns), head.deadline_ns, head.arrived_ns, window_.rows(),
           arrived_rows_.load(std::memory_order_relaxed)});
      if (decision.kind == Decision::Kind::kDrop) {
        drop_head(Cause::kOverload, dropped);
        continue;
      }
      if (decision.kind == Decision::Kind::kWait) {
        retry_at_ns = std::max(decision.until_ns, now_ns + 1);
        return nullptr;
      }
      const std::uint32_t rows =
          std::clamp(decision.rows, 1u, std::min(max_batch_, window_.rows()));
      batch->bound_ns = replica.controller().run_bound_ns(rows);
      if (batch->bound_ns > run_limit_ns) return nullptr;
      bind(*batch, rows);
      if (batch->rows > 0) break;  // else all of them had died meanwhile
    }
    if (batch->rows == 0) return nullptr;
    lay_out(*batch);
  }
  batch->start_ns = now_ns;
  replica.start(*batch);
  return batch;
}

void Deployment::drain_queue() {
  // Bounded, so that producers who never pause cannot keep the driver here.
  WaitingRows entry;
  for (std::uint64_t i = 0; i < queue_->capacity() && queue_->try_pop(entry); ++i) {
    window_.push(entry);
  }
}

bool Deployment::is_dead(const WaitingRows& entry) noexcept {
  return !queries_.at(entry.handle.slot).ask(entry.handle.ask).wants(entry.handle);
}

// Rows that died behind the head make the window look longer than it is. They are taken out when
// they are many enough to matter; the others when their turn comes.
void Deployment::bury_the_dead() {
  const std::uint64_t dead = dead_.load(std::memory_order_relaxed);
  if (dead - dead_seen_ < 1 + window_.entries() / 16) return;
  dead_seen_ = dead;
  window_.sweep([this](const WaitingRows& entry) { return is_dead(entry); },
                [this](const WaitingRows& entry) {
                  waiting_rows_.fetch_sub(entry.run.rows, std::memory_order_relaxed);
                  waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
                  rows_withdrawn.fetch_add(entry.run.rows, std::memory_order_relaxed);
                  RowBlocks::release(*entry.run.block, entry.run.rows);
                  leave(entry.run.rows);
                });
}

bool Deployment::drop_dead_head(Nanos now_ns, std::vector<DroppedRows>& dropped) {
  const WaitingRows& head = window_.head();
  if (is_dead(head)) {
    drop_head(Cause::kCancelled, dropped);
  } else if (head.deadline_ns <= now_ns) {
    drop_head(Cause::kDeadline, dropped);
  } else {
    return false;
  }
  return true;
}

void Deployment::drop_head(Cause cause, std::vector<DroppedRows>& dropped) {
  const WaitingRows entry = window_.head();
  window_.pop_head();
  waiting_rows_.fetch_sub(entry.run.rows, std::memory_order_relaxed);
  waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
  auto& counter = cause == Cause::kDeadline   ? rows_expired
                  : cause == Cause::kOverload ? rows_hopeless
                                              : rows_withdrawn;
  counter.fetch_add(entry.run.rows, std::memory_order_relaxed);
  dropped.push_back({entry, cause});
}

void Deployment::bind(Batch& batch, std::uint32_t rows) {
  batch.entries.clear();
  batch.rows = 0;
  batch.staging = {};
  while (batch.rows < rows && !window_.empty()) {
    WaitingRows entry = window_.head();
    const std::uint32_t room = rows - batch.rows;
    if (is_dead(entry)) {
      window_.pop_head();
      waiting_rows_.fetch_sub(entry.run.rows, std::memory_order_relaxed);
      waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
      rows_withdrawn.fetch_add(entry.run.rows, std::memory_order_relaxed);
      RowBlocks::release(*entry.run.block, entry.run.rows);
      leave(entry.run.rows);
      continue;
    }
    if (entry.run.rows > room) {
      window_.shorten_head(room);
      entry.run.rows = room;
    } else {
      window_.pop_head();
      waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
    }
    batch.entries.push_back(entry);
    batch.rows += entry.run.rows;
  }
  waiting_rows_.fetch_sub(batch.rows, std::memory_order_relaxed);
}

// Threads reserve and push in different orders, so rows of one run may arrive shuffled: any order
// is as good within a batch, and rows that lie together need not be copied.
void Deployment::lay_out(Batch& batch) {
  if (!is_one_run(batch.entries)) {
    std::sort(batch.entries.begin(), batch.entries.end(), lies_before);
    if (!is_one_run(batch.entries) && !gather(batch)) give_back_all_but_first_run(batch);
  }
  const RowRun& run = batch.was_gathered() ? batch.staging : batch.entries.front().run;
  batch.data = blocks_->row(*run.block, run.first);
}

bool Deployment::gather(Batch& batch) {
  const std::optional<RowRun> staging = staging_->reserve(batch.rows);
  if (!staging) return false;
  batch.staging = *staging;
  std::byte* target = staging_->row(*staging->block, staging->first);
  for (const WaitingRows& entry : batch.entries) {
    const std::size_t bytes = entry.run.rows * input_row_bytes_;
    std::memcpy(target, blocks_->row(*entry.run.block, entry.run.first), bytes);
    target += bytes;
  }
  return true;
}

// Only when user code keeps so many gathered batches that no staging memory is left.
void Deployment::give_back_all_but_first_run(Batch& batch) {
  std::size_t kept = 1;
  while (follows(batch.entries[kept - 1], batch.entries[kept])) ++kept;
  for (std::size_t i = kept; i < batch.entries.size(); ++i) {
    window_.push(batch.entries[i]);
    batch.rows -= batch.entries[i].run.rows;
    waiting_rows_.fetch_add(batch.entries[i].run.rows, std::memory_order_seq_cst);
    waiting_requests_.fetch_add(1, std::memory_order_relaxed);
  }
  batch.entries.resize(kept);
}

void Deployment::take_all(std::vector<DroppedRows>& dropped, Cause cause) {
  const std::scoped_lock lock(window_mutex_);
  drain_queue();
  while (!window_.empty()) drop_head(cause, dropped);
}

void Deployment::free_memory() {
  const std::scoped_lock lock(window_mutex_);
  window_ = {};
  queue_ = std::make_unique<RequestQueue<WaitingRows>>(2);
  blocks_.reset();
  staging_.reset();
}

}  // namespace clipper
