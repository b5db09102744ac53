// The way of a query from stage to stage.
//
// A stage is started by whoever ends its last predecessor, on that thread, from the outputs as they
// came, before the predecessor's own end is published: so a query with a stage still to be started
// never looks complete. Meanwhile that thread has the right to write the predecessor's answer,
// which keeps the owner from releasing the query, and all outputs where they are.
//
// Thread safety: a walk belongs to one thread. Several may walk for one query at once, each from
// rows that it alone has ended.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/errors.h"
#include "base/tensor.h"
#include "queue/row_blocks.h"
#include "selection/plan.h"
#include "serving/deployment.h"
#include "serving/engine.h"
#include "serving/query.h"
#include "serving/stages.h"

namespace clipper {

/// Stages that this thread has started, whose drivers are woken when it is done with its batch: by
/// then all rows that go on from there wait together.
struct StartedStages {
  std::array<Deployment*, kMaxAsks> deployments{};
  std::size_t count = 0;
  const Query* led = nullptr;            // the thread leads for this query, and will again
  const Deployment* led_next = nullptr;  // where it will then
  bool ends_turn = false;                // it is an event loop that looks at all stages now

  void note(const Query& query, Deployment& deployment) noexcept {
    if (&query == led && (led_next == nullptr || led_next == &deployment)) {
      led_next = &deployment;
      return;
    }
    const auto end = deployments.begin() + static_cast<std::ptrdiff_t>(count);
    if (std::find(deployments.begin(), end, &deployment) != end) return;
    if (count == deployments.size()) return deployment.wake_a_driver();
    deployments[count++] = &deployment;
  }
  void wake(bool patient) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
      deployments[i]->wake_a_driver(patient || ends_turn || deployments[i] == led_next);
    }
    count = 0;
    led = nullptr;
    led_next = nullptr;
    ends_turn = false;
  }
};

[[nodiscard]] StartedStages& started_here() noexcept;

/// Rows of one stage that have just ended.
struct Ended {
  std::uint16_t stage = 0;
  std::uint32_t offset = 0;  // the first of them within the query
  std::uint32_t rows = 0;
  Cause cause = Cause::kNone;
  const ColumnRows* outputs = nullptr;  // of their batch, in which they begin at row `first`
  std::uint32_t first = 0;
  // Their own inputs, where they still lie. Neither: they were never stored, and did not run.
  RowRun inputs;
  const ColumnRows* known = nullptr;  // of rows that a cache knew, which begin at row `first_known`
  std::uint32_t first_known = 0;
};

/// One step of a query from stage to stage, on the thread that makes it.
class Walk {
 public:
  Walk(Engine& engine, Query& query, Nanos now_ns) noexcept;

  /// Puts rows into the queue of a stage; those that it does not take have ended.
  void start(std::uint16_t stage, const ColumnRows* columns, std::uint32_t offset,
             std::uint32_t rows) noexcept;
  /// Starts or skips what was waiting for these rows alone. REQUIRES: the right to write them.
  void follow(const Ended& ended) noexcept;

 private:
  enum class Verdict : std::uint8_t { kNotDue, kRun, kSkip };

  void follow_to(std::uint16_t stage, const Ended& ended) noexcept;
  [[nodiscard]] Verdict decide(std::uint16_t stage, const Ended& ended, std::uint32_t i) noexcept;
  void run(std::uint16_t stage, const Ended& ended, std::uint32_t i, std::uint32_t count) noexcept;
  [[nodiscard]] bool holds(const Condition& condition, const Ended& ended,
                           std::uint32_t i) noexcept;
  [[nodiscard]] bool has_value(const Source& source, std::uint32_t row) noexcept {
    return source.stage == Source::kQuery || cause(source.stage, row) == Cause::kNone;
  }
  /// False: the row after it lies elsewhere.
  [[nodiscard]] bool locate(const Source& source, std::uint16_t same_as, const Ended& ended,
                            std::uint32_t i, ColumnRows& column) noexcept;
  void refuse(std::uint16_t stage, std::uint32_t offset, std::uint32_t rows) noexcept;
  /// Rows of the stage wait for a driver.
  void note_waiting(std::uint16_t stage, Deployment& deployment) noexcept;

  // The same past the stage's cache: see walk_cache.cc.
  void start_cached(std::uint16_t stage, const ColumnRows* columns, std::uint32_t offset,
                    std::uint32_t rows, Nanos deadline_ns) noexcept;
  void end_known(const Engine::CachedAsk& cached, std::uint32_t first, std::uint32_t rows,
                 Cause cause) noexcept;
  void push_missed(Engine::CachedAsk& cached, std::uint32_t first, std::uint32_t rows) noexcept;
  /// Ends rows that were not stored, or not accepted.
  void end(std::uint16_t stage, std::uint32_t offset, std::uint32_t rows, Cause cause) noexcept;
  void flush_if_late(Deployment& deployment) noexcept;
  [[nodiscard]] Nanos deadline_of(std::uint16_t stage) noexcept;
  [[nodiscard]] Nanos run_bound_ns(std::uint16_t stage) noexcept;
  [[nodiscard]] Cause cause(std::uint16_t stage, std::uint32_t row) noexcept {
    return query_.ask(stage).cause(row);
  }

  Engine& engine_;
  Query& query_;
  const Plan& plan_;
  Stages& stages_;
  const Nanos now_ns_;
};

}  // namespace clipper
