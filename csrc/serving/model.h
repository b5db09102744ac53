// A model by name: which of its deployments answers now.
//
// Thread safety: all of it.
#pragma once

#include <atomic>
#include <string>
#include <utility>

#include "serving/deployment.h"

namespace clipper {

class Model {
 public:
  explicit Model(std::string name) : name_(std::move(name)) {}

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] Deployment* current() const noexcept {
    return current_.load(std::memory_order_acquire);
  }
  /// Switches to another deployment (nullptr: none) and returns the one before, whose cached
  /// answers are forgotten: nobody will ask for them.
  Deployment* set_current(Deployment* deployment) noexcept {
    Deployment* before = current_.exchange(deployment, std::memory_order_acq_rel);
    if (before != nullptr && before->cache() != nullptr) before->cache()->clear();
    return before;
  }

  /// Counts `rows` into the current deployment; nullptr: there is none that takes them.
  [[nodiscard]] Deployment* enter(std::uint32_t rows) noexcept {
    for (;;) {
      Deployment* deployment = current();
      if (deployment == nullptr || deployment->enter(rows)) return deployment;
      if (current() == deployment) return nullptr;  // closed, and nothing has taken its place
    }
  }

 private:
  const std::string name_;
  std::atomic<Deployment*> current_{nullptr};
};

}  // namespace clipper
