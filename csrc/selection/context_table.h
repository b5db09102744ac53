// What an application's policy has learned: the application's own state, and one for each context.
//
// Thread safety: all of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "selection/policy.h"

namespace clipper {

/// Keeps a context's state where it is while a query is under way.
class ContextPin {
 public:
  ContextPin() = default;
  explicit ContextPin(PolicyState state) noexcept : state_(state) {}

  [[nodiscard]] PolicyState state() const noexcept { return state_; }
  void release() noexcept { state_ = {}; }

 private:
  PolicyState state_;
};

class ContextTable {
 public:
  ContextTable(const Policy& policy, std::uint16_t models)
      : words_(policy.state_words(models)), own_(new std::atomic<double>[words_]) {
    policy.begin(own());
  }

  /// The application's own state, for queries without a context.
  [[nodiscard]] PolicyState own() noexcept { return {own_.get(), words_}; }
  /// The state of a context.
  [[nodiscard]] ContextPin pin(std::uint64_t /*context*/) noexcept { return ContextPin(own()); }

 private:
  const std::size_t words_;
  const std::unique_ptr<std::atomic<double>[]> own_;
};

}  // namespace clipper
