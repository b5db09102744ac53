// Tables of contexts whose states count what they learned, and a durable store behind one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "counting_policy.h"
#include "selection/context_store.h"
#include "selection/context_table.h"

namespace clipper::testing {

inline constexpr std::uint16_t kModels = 4;
inline constexpr std::size_t kWords = 2 * kModels;
inline constexpr std::size_t kEach =
    16 + kWords * 8 + 11;  // bytes: a slot, and its share of the index

inline const CountingPolicy kPolicy;

inline double learned(PolicyState state) {
  double sum = 0;
  for (std::size_t i = 0; i < state.size(); i += 2) sum += state[i].load();
  return sum;
}

/// Bytes that hold about so many contexts, in one shard.
inline ContextOptions about(std::size_t contexts) { return {contexts * kEach + 512, 1}; }

inline ContextTable in_memory(std::size_t contexts) {
  return {kPolicy, kModels, about(contexts),
          std::make_unique<MemoryContextStore>(kWords, std::size_t{64} << 20)};
}

inline Observed tell(ContextTable& table, std::uint64_t context, std::uint16_t model = 0) {
  const std::array<Observation, 1> one{{{model, 0.5F, 1.0F}}};
  return table.observe(context, one);
}

/// What a drainer keeps, and how it goes about it.
struct Durable {
  explicit Durable(std::size_t contexts, std::uint32_t max_spilled = 1000)
      : table(kPolicy, kModels, about(contexts),
              std::make_unique<DrainedContextStore>(kWords, max_spilled)),
        store(static_cast<DrainedContextStore*>(table.store())) {}

  void save() {
    ContextBatch batch;
    store->take_spilled(batch, 1'000'000);
    keep(batch);
  }
  void save_changed() {
    ContextBatch batch;
    for (std::size_t shard = 0; shard < table.shards(); ++shard) table.take_changed(shard, batch);
    keep(batch);
  }
  void load() {
    store->take_wanted(wanted, 1'000'000);
    std::vector<std::uint64_t> later;
    for (const std::uint64_t context : wanted) {
      const auto found = kept.find(context);
      const std::span<const double> state =
          found == kept.end() ? std::span<const double>() : found->second;
      if (!table.put_loaded(context, state)) later.push_back(context);
    }
    wanted = later;
  }
  void drain() {
    (void)store->doorbell().drain();
    save();
    load();
  }

  ContextTable table;
  DrainedContextStore* store;
  std::unordered_map<std::uint64_t, std::vector<double>> kept;
  std::vector<std::uint64_t> wanted;

 private:
  void keep(const ContextBatch& batch) {
    for (std::size_t i = 0; i < batch.contexts.size(); ++i) {
      const auto* state = batch.numbers.data() + i * kWords;
      kept[batch.contexts[i]].assign(state, state + kWords);
    }
  }
};

}  // namespace clipper::testing
