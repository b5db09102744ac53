// What the engine does for shadows: asks them behind the caller's back, and lets the reaper
// compare.
#include <memory>
#include <new>

#include "serving/engine.h"
#include "serving/shadow.h"

namespace clipper {

void ShadowTrial::keep(const Outcome& outcome) noexcept {
  if (outcome.layout == nullptr) return;
  const std::size_t row_bytes = outcome.layout->row_bytes();
  try {
    given.allocate(*outcome.layout, query.rows);
    causes = std::make_unique<Cause[]>(query.rows);
  } catch (const std::bad_alloc&) {
    return;
  }
  layout = outcome.layout;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    causes[row] = outcome.causes == nullptr ? outcome.cause : outcome.causes[row];
    if (causes[row] != Cause::kNone) continue;
    const std::size_t at = row * row_bytes;
    if (!layout->copy(outcome.outputs + at, given.data() + at)) causes[row] = Cause::kOverload;
  }
}

void ShadowTrial::compare(const Outcome& answered) noexcept {
  if (layout == nullptr) return;
  std::uint64_t both = 0;
  std::uint64_t same = 0;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    const Cause cause = answered.causes == nullptr ? answered.cause : answered.causes[row];
    if (cause != Cause::kNone || causes[row] != Cause::kNone) continue;
    const std::size_t at = row * layout->row_bytes();
    ++both;
    same += ballot.agree(*layout, answered.outputs + at, given.data() + at) ? 1 : 0;
  }
  shadow.compared.fetch_add(both, std::memory_order_relaxed);
  shadow.agreed.fetch_add(same, std::memory_order_relaxed);
}

ShadowModel& Engine::add_shadow(Application& application, Model& model, const RowSpec& output) {
  Application& own = add_application(application.name + " (shadow " + model.name() + ")", {&model},
                                     nullptr, kNever, 0.0F, kLeastPriority);
  if (application.shadows == nullptr) application.shadows = std::make_unique<Shadows>(output);
  application.shadows->models.push_back(std::make_unique<ShadowModel>(own));
  return *application.shadows->models.back();
}

/// On the caller's thread: asks, and waits for nothing.
void Engine::start_shadows(Query& query, const ColumnRows* columns) noexcept {
  Shadows& shadows = *query.application->shadows;
  for (const auto& shadow : shadows.models) {
    Refusal refusal{};
    Query* asked = submit(shadow->asks, columns, query.rows, {}, refusal);
    ShadowTrial* trial = asked == nullptr ? nullptr
                                          : new (std::nothrow)
                                                ShadowTrial(*shadow, shadows.ballot, *asked);
    if (trial == nullptr) {
      shadow->not_asked.fetch_add(query.rows, std::memory_order_relaxed);
      if (asked == nullptr) continue;
      collect_answers(*asked);  // withdraws it
      release(*asked);
      continue;
    }
    trial->next = query.shadows;
    query.shadows = trial;
    asked->trial.reset(trial);
    if (!asked->attach(shadow_box_)) shadow_box_.post(*asked);  // done already
  }
}

/// The caller's query has ended; outcome: nullptr, nobody looked at what came of it.
void Engine::note_given(Query& query, const Outcome* outcome) noexcept {
  ShadowTrial* trial = query.shadows;
  query.shadows = nullptr;
  while (trial != nullptr) {
    ShadowTrial* next = trial->next;  // once it has arrived, it may be gone
    Query& shadow = trial->query;
    if (outcome != nullptr) trial->keep(*outcome);
    const std::uint8_t before =
        trial->arrived.fetch_or(ShadowTrial::kGiven, std::memory_order_acq_rel);
    if ((before & ShadowTrial::kAnswered) != 0) shadow_box_.post(shadow);
    trial = next;
  }
}

void Engine::collect_shadows() noexcept {
  Letter* letter = shadow_box_.take_all();
  while (letter != nullptr) {
    Letter* following = letter->next_letter;
    Query& query = *static_cast<Query*>(letter);
    const std::uint8_t before =
        query.trial->arrived.fetch_or(ShadowTrial::kAnswered, std::memory_order_acq_rel);
    if ((before & ShadowTrial::kGiven) != 0) {
      Outcome outcome;
      collect(query, 0, outcome);  // of one model: nothing is allocated
      query.trial->compare(outcome);
      query.trial.reset();
      release(query);
    }
    letter = following;
  }
}

/// What has not come together by the engine's end never will.
void Engine::drop_shadows() noexcept {
  for (std::uint32_t slot = 0; slot < queries_.slots(); ++slot) queries_.at(slot).trial.reset();
}

}  // namespace clipper
