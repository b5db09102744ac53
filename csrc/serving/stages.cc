#include "serving/stages.h"

namespace clipper {

void Stages::open(const Plan& plan, std::uint32_t rows, bool bypass_cache) {
  const std::size_t needed = plan.stages().size() * rows;
  if (needed > room_) {
    progress_.reset(new Progress[needed]);
    room_ = needed;
  }
  rows_ = rows;
  bypasses_cache_ = bypass_cache;
  for (std::uint16_t stage = 0; stage < plan.stages().size(); ++stage) {
    const auto left = static_cast<std::uint8_t>(plan.stages()[stage].predecessors.size());
    for (std::uint32_t row = 0; row < rows; ++row) {
      progress(stage, row).store(left, std::memory_order_relaxed);
    }
  }
  started_.store(0, std::memory_order_relaxed);
  led_.store(0, std::memory_order_relaxed);
  input_.clear();
  if (plan.keeps_input()) input_.allocate(plan.input_layout(), rows);
}

void Stages::clear() noexcept {
  input_.clear();
  if (room_ <= kKeptBytes) return;
  progress_.reset();
  room_ = 0;
}

}  // namespace clipper
