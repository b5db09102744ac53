// What becomes of rows whose worker died, and of inputs that workers die of.
#include "serving/engine.h"

namespace clipper {

std::vector<Hash128> Engine::retry(Batch& batch, bool is_blamed, Nanos runnable_at_ns,
                                   std::uint32_t error_id) {
  Deployment& deployment = batch.replica->deployment();
  Quarantine& quarantine = deployment.quarantine();
  const Nanos now_ns = clock_.now_ns();
  batch.replica->end(batch, now_ns, true);
  if (batch.was_gathered()) RowBlocks::release(*batch.staging.block, batch.staging.rows);
  const bool was_alone = batch.rows == 1;
  std::vector<Hash128> refused;
  for (const WaitingRows& whole : batch.entries) {
    WaitingRows entry = whole;
    if (is_blamed) entry.run.rows = 1;  // each by itself from here on
    for (std::uint32_t i = 0; i < whole.run.rows; i += entry.run.rows) {
      entry.offset = whole.offset + i;
      entry.run.first = whole.run.first + i;
      bool is_refused = false;
      if (is_blamed) {
        const Hash128 input = quarantine.name_of(entry.run);
        is_refused = quarantine.note_death(input, was_alone, error_id) == Suspicion::kRefused;
        if (is_refused) refused.push_back(input);
        entry.handle.trial = Trial::kSuspect;
      }
      // One that several wait for is due when the last of them is: the window sees to the others.
      const bool has_time = entry.deadline_ns > runnable_at_ns || entry.flight;
      if (!is_refused && has_time && runnable_at_ns != kNever) {
        deployment.requeue(entry);
        continue;
      }
      answer(entry, Cause::kCrash, nullptr, 0, batch.start_ns, error_id, now_ns);
      RowBlocks::release(*entry.run.block, entry.run.rows);
      deployment.leave(entry.run.rows);
    }
  }
  batch.entries.clear();
  batch.rows = 0;
  // What waits at a deployment that has been flushed finds nobody who would claim it.
  if (deployment.is_flushed()) flush(deployment, Cause::kCrash);
  wake_started_stages();
  deployment.wake_a_driver();
  return refused;
}

std::uint32_t Engine::screen(WaitingRows& entry, Deployment& deployment, const ColumnRows* columns,
                             std::uint32_t first, std::uint32_t rows) noexcept {
  if (deployment.quarantine().is_empty()) [[likely]]
    return rows;
  const Screened screened = deployment.quarantine().screen(columns, first, rows);
  const bool is_suspect = screened.suspicion == Suspicion::kSuspect;
  entry.handle.trial = is_suspect ? Trial::kSuspect : Trial::kFirst;
  if (screened.suspicion != Suspicion::kRefused) return screened.rows;
  entry.run = {nullptr, 0, 1};
  deployment.rows_refused.fetch_add(1, std::memory_order_relaxed);
  answer(entry, Cause::kCrash, nullptr, 0, 0, screened.error_id, entry.arrived_ns);
  deployment.leave(1);
  return 0;
}

}  // namespace clipper
