// Shadows: models that are asked what an application is asked, whose answers reach no caller and
// for which nobody waits. What they say is compared with the answer that was given.
//
// Each shadow has queries of its own, best effort and of the least priority. A trial belongs to
// such a query and brings two things together, in either order: that the shadow is done, and what
// was given. Whichever comes second sends it to the reaper, which compares and counts.
//
// Thread safety: Shadows are set up before the first query, their counters any time. A trial's
// `given` part is written by who collects the caller's query, before it arrives; all else by the
// reaper.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/errors.h"
#include "base/output_layout.h"
#include "base/tensor.h"
#include "selection/ballot.h"
#include "serving/query.h"

namespace clipper {

struct Outcome;

/// One model in the shadow of an application.
struct ShadowModel {
  explicit ShadowModel(Application& its_own) : asks(its_own) {}

  Application& asks;  // of this model alone: counts its answers, errors and latency
  std::atomic<std::uint64_t> compared{0};   // rows that both answered
  std::atomic<std::uint64_t> agreed{0};     // of them, with the same answer
  std::atomic<std::uint64_t> not_asked{0};  // rows, for want of memory
};

struct Shadows {
  /// spec: of the outputs. Vectors of floats agree if their largest number is in the same place.
  explicit Shadows(const RowSpec& spec) {
    if (Ballot::can_take_mean(spec) && spec.columns.front().elements() > 1) {
      ballot = Ballot(spec, true);
    }
  }

  Ballot ballot;
  std::vector<std::unique_ptr<ShadowModel>> models;
};

/// One shadow's part in one query.
struct ShadowTrial {
  static constexpr std::uint8_t kAnswered = 1;  // the shadow is done, whatever came of it
  static constexpr std::uint8_t kGiven = 2;     // so is the caller's query

  ShadowTrial(ShadowModel& of, const Ballot& by, Query& its_query) noexcept
      : shadow(of), ballot(by), query(its_query) {}

  /// Copies what the caller is given.
  void keep(const Outcome& outcome) noexcept;
  /// Counts rows that both answered, and those with the same answer.
  void compare(const Outcome& answered) noexcept;

  ShadowModel& shadow;
  const Ballot& ballot;
  Query& query;                 // the shadow's, which owns this
  ShadowTrial* next = nullptr;  // of the same caller's query
  std::atomic<std::uint8_t> arrived{0};
  const OutputLayout* layout = nullptr;  // nullptr: nothing was given
  OutputRows given;
  std::unique_ptr<Cause[]> causes;
};

}  // namespace clipper
