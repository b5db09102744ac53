#include "selection/canary.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "selection/choosing.h"
#include "selection/learns_from_failures.h"

namespace clipper {
namespace {

constexpr std::size_t kAsked = 0;   // by the model's place
constexpr std::size_t kFailed = 2;  // by the model's place
constexpr std::size_t kWithdrawn = 4;
constexpr std::size_t kWords = 5;

double read(PolicyState state, std::size_t word) noexcept {
  return state[word].load(std::memory_order_relaxed);
}

}  // namespace

Canary::Canary(const CanaryOptions& options) : options_(options) {
  if (options.model > 1) {
    throw Error(ErrorCode::kInvalidArgument, "a canary is one of two models");
  }
  if (!(options.share >= 0.0 && options.share <= 1.0)) {
    throw Error(ErrorCode::kInvalidArgument, "a canary's share must lie in [0, 1]");
  }
  if (!(options.z > 0.0) || !(options.min_count >= 1.0)) {
    throw Error(ErrorCode::kInvalidArgument, "a canary's z and min_count must be positive");
  }
}

std::size_t Canary::state_words(std::uint16_t /*models*/) const noexcept { return kWords; }

std::size_t Canary::select(const SelectionInput& input, PolicyState state,
                           std::span<Choice> chosen) const noexcept {
  const auto old_model = static_cast<std::uint16_t>(1 - options_.model);
  const double share = is_withdrawn(state) ? 0.0 : options_.share;
  const bool asks_new = unit_of(input.has_context ? input.context : input.random) < share;
  chosen[0] = asks_new ? Choice{options_.model, static_cast<float>(share)}
                       : Choice{old_model, static_cast<float>(1.0 - share)};
  return 1;
}

Combined Canary::combine(std::span<const Answer> answers, PolicyState /*state*/,
                         const OutputLayout& /*layout*/, std::byte* /*output*/) const noexcept {
  return only_answer(answers);
}

bool Canary::is_withdrawn(PolicyState state) noexcept { return read(state, kWithdrawn) != 0.0; }

bool Canary::watch(std::span<const Service> services, PolicyState state) const noexcept {
  bool is_news = false;
  for (const Service& service : services) {
    if (service.model > 1 || service.cause == Cause::kCancelled) continue;
    state[kAsked + service.model].fetch_add(1.0, std::memory_order_relaxed);
    if (!is_failure(service.cause) && service.in_time) continue;
    state[kFailed + service.model].fetch_add(1.0, std::memory_order_relaxed);
    if (service.model == options_.model && stands_out(state)) {
      is_news |= state[kWithdrawn].exchange(1.0, std::memory_order_relaxed) == 0.0;
    }
  }
  return is_news;
}

bool Canary::stands_out(PolicyState state) const noexcept {
  const std::size_t new_model = options_.model;
  const std::size_t old_model = 1 - new_model;
  const double new_count = read(state, kAsked + new_model);
  const double old_count = read(state, kAsked + old_model);
  if (std::min(new_count, old_count) < options_.min_count) return false;
  const double new_failed = read(state, kFailed + new_model);
  const double old_failed = read(state, kFailed + old_model);
  const double pooled = (new_failed + old_failed) / (new_count + old_count);
  const double variance = pooled * (1.0 - pooled) * (1.0 / new_count + 1.0 / old_count);
  return new_failed / new_count - old_failed / old_count >
         options_.z * std::sqrt(std::max(variance, 0.0));
}

void Canary::describe(PolicyState state, std::span<Standing> standings) const noexcept {
  const double share = is_withdrawn(state) ? 0.0 : options_.share;
  for (std::size_t i = 0; i < standings.size(); ++i) {
    Standing& standing = standings[i];
    standing.share = standing.weight = i == options_.model ? share : 1.0 - share;
    standing.count = read(state, kAsked + i);
    standing.loss = standing.count > 0.0 ? read(state, kFailed + i) / standing.count : 0.0;
  }
}

}  // namespace clipper
