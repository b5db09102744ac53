#include "serving/deployment.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <string>

namespace clipper {
namespace {

std::vector<std::int64_t> checked_edges(const DeploymentOptions& options) {
  if (options.lane_edges.size() >= kMaxLanes ||
      !std::is_sorted(options.lane_edges.begin(), options.lane_edges.end())) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "rows are grouped by at most " + std::to_string(kMaxLanes - 1) + " ascending lengths");
  }
  return options.lane_edges;
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
      output_layout_(options_.output),
      statistics_(options_.output, options_.statistics),
      blocks_(std::make_shared<RowBlocks>(options_.input, options_.row_budget_bytes, 1)),
      // No batch has more rows than may wait.
      staging_(std::make_shared<RowBlocks>(options_.input, options_.row_budget_bytes,
                                           options_.max_batch)),
      block_rows_(blocks_->block_rows()),
      most_batch_rows_(std::min(options_.most_batch, staging_->is_ragged()
                                                         ? std::numeric_limits<std::uint32_t>::max()
                                                         : staging_->block_rows())),
      max_batch_(std::clamp(options_.max_batch, 1U, most_batch_rows_)),
      max_queue_(options_.max_queue),
      queue_(std::make_unique<RequestQueue<WaitingRows>>(options_.max_queue)),
      cache_(make_cache()),
      windows_(checked_edges(options_).size() + 1),
      quarantine_(RowHasher(options_.cache.secret, options_.cache.deployment, options_.input)) {}

Replica& Deployment::add_replica(std::vector<std::unique_ptr<Controller>> controllers) {
  replicas_.push_back(
      std::make_unique<Replica>(*this, std::move(controllers), options_.most_in_flight));
  return *replicas_.back();
}

Replica& Deployment::add_replica(std::unique_ptr<Controller> controller) {
  std::vector<std::unique_ptr<Controller>> only;
  only.push_back(std::move(controller));
  return add_replica(std::move(only));
}

Lane Deployment::lane_of(const ColumnRows* source, std::uint32_t row) const noexcept {
  if (options_.lane_edges.empty()) return 0;
  for (std::size_t c = 0; c < options_.input.columns.size(); ++c) {
    if (!options_.input.columns[c].ragged) continue;
    const std::int64_t length = source[c].begin_of(row + 1) - source[c].begin_of(row);
    const auto edge =
        std::lower_bound(options_.lane_edges.begin(), options_.lane_edges.end(), length);
    return static_cast<Lane>(edge - options_.lane_edges.begin());
  }
  return 0;
}

Lane Deployment::longest_lane_of(const ColumnRows* source, std::uint32_t rows) const noexcept {
  Lane longest = 0;
  if (windows_.size() == 1) return longest;
  for (std::uint32_t row = 0; row < rows; ++row) longest = std::max(longest, lane_of(source, row));
  return longest;
}

std::optional<RowRun> Deployment::store(const ColumnRows* source, std::uint32_t first,
                                        std::uint32_t rows, Lane& lane) noexcept {
  lane = lane_of(source, first);
  std::uint32_t count = 1;
  if (windows_.size() == 1) {
    // Ragged rows stay together even where no block is large enough: they get one of their own.
    count = blocks_->is_ragged() ? rows : std::min(rows, block_rows_);
  } else {
    while (count < rows && lane_of(source, first + count) == lane) ++count;
  }
  const std::optional<RowRun> run = blocks_->reserve(count, source, first);
  if (run) blocks_->write(*run, source, first);
  return run;
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

bool Deployment::admits(Nanos now_ns, std::uint32_t rows, Nanos answer_by_ns, Lane lane,
                        Priority priority) const noexcept {
  if (answer_by_ns == kNever) return true;
  const std::uint32_t ahead = rows_before(answer_by_ns, priority);
  for (const auto& replica : replicas_) {
    const Controller& controller = replica->controller(lane);
    if (!controller.is_warm()) return true;
    // Its own rows are drained with those ahead: counted by themselves, they would pay the fixed
    // cost of a batch that they will share.
    const Nanos done_ns = saturating_add(replica->expected_free_at_ns(now_ns),
                                         controller.drain_ns(ahead + rows, answer_by_ns - now_ns));
    if (done_ns <= answer_by_ns) return true;
    // A replica that does nothing is never locked out by a bound alone: its controller may probe.
    if (ahead == 0 && replica->free_at_ns(now_ns) == now_ns && !replica->is_driven()) return true;
  }
  return false;
}

bool Deployment::push(const WaitingRows& entry) noexcept {
  if (entry.handle.trial == Trial::kSuspect) [[unlikely]]
    return push_suspect(entry);
  if (waiting_requests_.fetch_add(1, std::memory_order_relaxed) >= max_queue() ||
      (!queue_->try_push(entry) && !push_after_draining(entry))) {
    waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  count_waiting(entry, entry.run.rows);
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
  if (batch == nullptr) return nullptr;
  batch->rows = 0;
  const std::scoped_lock lock(window_mutex_);
  drain_queue();
  bury_the_dead(now_ns);
  if (has_priorities_.load(std::memory_order_relaxed)) choose_ranks(replica, now_ns, dropped);
  if (!suspects_.empty()) bind_suspect(*batch, now_ns, dropped);
  std::array<bool, kMaxLanes> passed_over{};
  while (Window* window = batch->rows > 0 ? nullptr : most_urgent(passed_over)) {
    if (drop_dead_head(*window, now_ns, dropped)) continue;
    const auto lane = static_cast<Lane>(window - windows_.data());
    Controller& controller = replica.controller(lane);
    // A limit that not even one row keeps is found out before the controller decides: it may spend
    // a probe, which only a driver without a limit can run. So may what is not known yet.
    if (run_limit_ns != kNever &&
        (!controller.is_warm() || controller.run_bound_ns(1) > run_limit_ns)) {
      return nullptr;
    }
    const WaitingRows& head = window->head();
    const Decision decision = controller.decide(
        {now_ns, replica.free_at_ns(now_ns), head.deadline_ns, head.arrived_ns, window->rank_rows(),
         arrived_rows_.load(std::memory_order_relaxed), window->tail_deadline_ns()});
    if (decision.kind == Decision::Kind::kDrop) {
      drop_or_pass_head(*window, Cause::kOverload, now_ns, dropped);
      continue;
    }
    if (decision.kind == Decision::Kind::kWait) {
      retry_at_ns = std::min(retry_at_ns, std::max(decision.until_ns, now_ns + 1));
      passed_over[lane] = true;
      continue;
    }
    std::uint32_t rows = std::clamp(decision.rows, 1u, std::min(max_batch(), window->rank_rows()));
    if (window->has_several_ranks()) {
      rows = rows_among_ranks(*window, replica, now_ns, rows, dropped);
    }
    if (controller.run_bound_ns(rows) > run_limit_ns) return nullptr;
    batch->lane = lane;
    const bool is_contested = window->has_several_ranks();
    bind(*batch, *window, rows, now_ns);
    if (batch->rows == 0) continue;  // all of them have died meanwhile: nobody had a turn
    batch->bound_ns = controller.run_bound_ns(batch->rows);
    // Who is served is known only now: rows may have died since they were chosen.
    if (is_contested) window->charge(batch->entries.front().priority, batch->bound_ns);
  }
  if (batch->rows == 0) return nullptr;
  retry_at_ns = kNever;
  lay_out(*batch);
  batch->start_ns = now_ns;
  replica.start(*batch);
  if (cache_ != nullptr) note_end(*batch, replica.free_at_ns(now_ns));
  return batch;
}

// The lane whose head is due first.
Window* Deployment::most_urgent(const std::array<bool, kMaxLanes>& passed_over) noexcept {
  Window* found = nullptr;
  for (std::size_t lane = 0; lane < windows_.size(); ++lane) {
    Window& window = windows_[lane];
    if (window.empty() || passed_over[lane]) continue;
    if (found == nullptr || window.head().deadline_ns < found->head().deadline_ns ||
        (window.head().deadline_ns == found->head().deadline_ns &&
         window.head().arrived_ns < found->head().arrived_ns)) {
      found = &window;
    }
  }
  return found;
}

// More may wait than the queue was made for: what it holds moves on into the window.
bool Deployment::push_after_draining(const WaitingRows& entry) noexcept {
  if (max_queue() <= queue_->capacity()) return false;
  try {
    const std::scoped_lock lock(window_mutex_);
    drain_queue();
  } catch (const std::bad_alloc&) {
    return false;
  }
  return queue_->try_push(entry);
}

void Deployment::drain_queue() {
  // Bounded, so that producers who never pause cannot keep the driver here.
  WaitingRows entry;
  for (std::uint64_t i = 0; i < queue_->capacity() && queue_->try_pop(entry); ++i) {
    windows_[entry.lane].push(entry);
  }
}

bool Deployment::is_dead(const WaitingRows& entry) noexcept {
  return !queries_.at(entry.handle.slot).ask(entry.handle.ask).wants(entry.handle);
}

// A whole entry has left the window.
void Deployment::note_taken(const WaitingRows& entry) noexcept {
  waiting_rows_.fetch_sub(entry.run.rows, std::memory_order_relaxed);
  count_waiting(entry, -std::int64_t{entry.run.rows});
  waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
}

// Nobody wants these rows any more, and nobody is told.
void Deployment::bury(const WaitingRows& entry, Nanos now_ns) {
  note_taken(entry);
  rows_withdrawn.fetch_add(entry.run.rows, std::memory_order_relaxed);
  if (entry.flight) return bury_or_pass(entry, now_ns);
  release(entry);
}

void Deployment::release(const WaitingRows& entry) noexcept {
  RowBlocks::release(*entry.run.block, entry.run.rows);
  leave(entry.run.rows);
}

// Rows that died behind the head make the window look longer than it is. They are taken out when
// they are many enough to matter; the others when their turn comes.
void Deployment::bury_the_dead(Nanos now_ns) {
  const std::uint64_t dead = dead_.load(std::memory_order_relaxed);
  if (dead == dead_seen_) return;
  std::size_t entries = 0;
  for (const Window& window : windows_) entries += window.entries();
  if (dead - dead_seen_ < 1 + entries / 16) return;
  dead_seen_ = dead;
  for (Window& window : windows_) {
    window.sweep([this](const WaitingRows& entry) { return is_dead(entry); },
                 [&](const WaitingRows& entry) { bury(entry, now_ns); });
  }
  if (!passed_on_.empty()) put_back_passed();
}

bool Deployment::drop_dead_head(Window& window, Nanos now_ns, std::vector<DroppedRows>& dropped) {
  const WaitingRows& head = window.head();
  if (is_dead(head)) {
    drop_or_pass_head(window, Cause::kCancelled, now_ns, dropped);
  } else if (head.deadline_ns <= now_ns) {
    drop_or_pass_head(window, head.handle.trial == Trial::kFirst ? Cause::kDeadline : Cause::kCrash,
                      now_ns, dropped);
  } else {
    return false;
  }
  return true;
}

void Deployment::drop_head(Window& window, Cause cause, std::vector<DroppedRows>& dropped) {
  const WaitingRows entry = window.head();
  window.pop_head();
  note_taken(entry);
  auto& counter = cause == Cause::kDeadline || cause == Cause::kCrash ? rows_expired
                  : cause == Cause::kOverload                         ? rows_hopeless
                                                                      : rows_withdrawn;
  counter.fetch_add(entry.run.rows, std::memory_order_relaxed);
  dropped.push_back({entry, cause});
}

void Deployment::bind(Batch& batch, Window& window, std::uint32_t rows, Nanos now_ns) {
  batch.entries.clear();
  batch.rows = 0;
  batch.staging = {};
  while (batch.rows < rows && !window.empty()) {
    WaitingRows entry = window.head();
    const std::uint32_t room = rows - batch.rows;
    if (is_dead(entry)) {
      window.pop_head();
      bury(entry, now_ns);
      continue;
    }
    if (entry.run.rows > room) {
      window.shorten_head(room);
      entry.run.rows = room;
    } else {
      window.pop_head();
      waiting_requests_.fetch_sub(1, std::memory_order_relaxed);
    }
    batch.entries.push_back(entry);
    batch.rows += entry.run.rows;
    count_waiting(entry, -std::int64_t{entry.run.rows});
  }
  waiting_rows_.fetch_sub(batch.rows, std::memory_order_relaxed);
  if (!passed_on_.empty()) put_back_passed();
}

// Threads reserve and push in different orders, so rows of one run may arrive shuffled: any order
// is as good within a batch, and rows that lie together need not be copied.
void Deployment::lay_out(Batch& batch) {
  if (!is_one_run(batch.entries)) {
    const WaitingRows head = batch.entries.front();
    std::sort(batch.entries.begin(), batch.entries.end(), lies_before);
    if (!is_one_run(batch.entries) && !gather(batch)) {
      give_back_all_but_run_of(batch, head);
    }
  }
  batch.data = batch.column(0);
}

std::optional<RowRun> Deployment::reserve_staging(const Batch& batch) noexcept {
  if (!staging_->is_ragged()) return staging_->reserve(batch.rows);
  std::array<std::int64_t, kMaxColumns> items{};
  std::size_t ragged = 0;
  for (std::size_t c = 0; c < options_.input.columns.size(); ++c) {
    if (!options_.input.columns[c].ragged) continue;
    for (const WaitingRows& entry : batch.entries) {
      items[ragged] += RowBlocks::items(entry.run, c);
    }
    ++ragged;
  }
  return staging_->reserve_own(batch.rows, std::span(items).first(ragged));
}

bool Deployment::gather(Batch& batch) {
  const std::optional<RowRun> staging = reserve_staging(batch);
  if (!staging) return false;
  batch.staging = *staging;
  std::uint32_t at = staging->first;
  for (const WaitingRows& entry : batch.entries) {
    staging_->append(entry.run, *staging, at);
    at += entry.run.rows;
  }
  return true;
}

// Only when user code keeps so many gathered batches that no staging memory is left. The head
// stays: it is due first.
void Deployment::give_back_all_but_run_of(Batch& batch, const WaitingRows& head) {
  std::vector<WaitingRows>& entries = batch.entries;
  const auto is_head = [&head](const WaitingRows& entry) {
    return entry.run.block == head.run.block && entry.run.first == head.run.first;
  };
  auto begin = std::find_if(entries.begin(), entries.end(), is_head);
  auto end = begin + 1;
  while (begin != entries.begin() && follows(*(begin - 1), *begin)) --begin;
  while (end != entries.end() && follows(*(end - 1), *end)) ++end;
  const std::vector<WaitingRows> kept(begin, end);
  entries.erase(begin, end);
  for (const WaitingRows& entry : entries) {
    put_back(entry);
    batch.rows -= entry.run.rows;
  }
  entries = kept;
}

void Deployment::put_back(const WaitingRows& entry) {
  if (entry.handle.trial == Trial::kSuspect) {
    suspects_.push_back(entry);
  } else {
    windows_[entry.lane].push(entry);
  }
  count_waiting(entry, entry.run.rows);
  waiting_rows_.fetch_add(entry.run.rows, std::memory_order_seq_cst);
  waiting_requests_.fetch_add(1, std::memory_order_relaxed);
}

void Deployment::take_all(std::vector<DroppedRows>& dropped, Cause cause) {
  const std::scoped_lock lock(window_mutex_);
  drain_queue();
  for (Window& window : windows_) {
    while (!window.empty()) drop_head(window, cause, dropped);
  }
  for (const WaitingRows& entry : suspects_) {
    note_taken(entry);
    dropped.push_back({entry, cause});
  }
  suspects_.clear();
}

void Deployment::free_memory() {
  const std::scoped_lock lock(window_mutex_);
  for (Window& window : windows_) window = {};
  queue_ = std::make_unique<RequestQueue<WaitingRows>>(2);
  if (cache_ != nullptr) cache_->free_memory();
  blocks_.reset();
  staging_.reset();
}

}  // namespace clipper
