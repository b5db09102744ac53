// The prediction cache: naming rows, hits on one and two threads, and misses that evict.
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "batching/fixed.h"
#include "cache/entry_store.h"
#include "cache/prediction_cache.h"
#include "cache/row_hasher.h"
#include "measure.h"
#include "serving/engine.h"

namespace {

using namespace clipper;

constexpr std::uint32_t kKnown = 10'000;
constexpr std::size_t kRowBytes = 64;

struct Row {
  std::array<std::uint64_t, kRowBytes / sizeof(std::uint64_t)> words{};
};

Row row_of(std::uint64_t number) {
  Row row;
  row.words.fill(number);
  return row;
}

/// An engine whose model has answered rows [0, kKnown).
class Answered {
 public:
  Answered() {
    DeploymentOptions options;
    options.input = {{DTypeCode::kUInt, 64}, {8}};
    options.output = {{DTypeCode::kUInt, 64}, {}};
    options.cache.bytes = std::size_t{64} << 20;
    Deployment& deployment = engine_.add_deployment(options);
    Replica& replica = deployment.add_replica(std::make_unique<FixedController>(4096));
    model_.set_current(&deployment);
    std::vector<Row> rows;
    for (std::uint64_t number = 0; number < kKnown; ++number) rows.push_back(row_of(number));
    Query* query = ask(rows.data(), kKnown);
    Nanos retry_at_ns = kNever;
    while (Batch* batch = engine_.drive(replica, retry_at_ns)) {
      std::vector<std::uint64_t> outputs;
      for (std::uint32_t i = 0; i < batch->rows; ++i) {
        Row row;
        std::memcpy(&row, batch->data + i * kRowBytes, kRowBytes);
        outputs.push_back(row.words[0]);
      }
      engine_.complete(*batch, reinterpret_cast<const std::byte*>(outputs.data()));
      engine_.stop_driving(replica);
    }
    end(query);
  }

  void hit(std::uint64_t operations, std::uint64_t seed) {
    Random random(seed);
    for (std::uint64_t i = 0; i < operations; ++i) {
      const std::uint64_t number = random.below(kKnown);
      const Row row = row_of(number);
      Query* query = ask(&row, 1);
      bench::expect(query->is_done() && end(query) == number, "a hit with its own answer");
    }
  }

 private:
  Query* ask(const Row* rows, std::uint32_t count) {
    Asking asking;
    asking.will_lead = true;
    asking.attended = true;
    Refusal refusal{};
    return engine_.submit(application_, reinterpret_cast<const std::byte*>(rows), count, asking,
                          refusal);
  }
  std::uint64_t end(Query* query) {
    Outcome outcome;
    engine_.collect(*query, 0, outcome);
    std::uint64_t output = 0;
    std::memcpy(&output, outcome.outputs, sizeof output);
    engine_.release(*query);
    return output;
  }

  const MonotonicClock clock_;
  Engine engine_{clock_, 1};
  Model& model_ = engine_.add_model("m");
  Application& application_ = engine_.add_application("m", {&model_}, nullptr, kNever, 0.0F);
};

class Nobody final : public Liveness {
 public:
  [[nodiscard]] bool is_live(const Handle&) const noexcept override { return false; }
};

/// The cache alone, knowing rows [0, kKnown).
class Filled {
 public:
  Filled() {
    for (std::uint64_t number = 0; number < kKnown; ++number) {
      Flight* flight = nullptr;
      const auto missed = look_up(number, [&] { return flight = Flight::make(1); });
      bench::expect(missed == PredictionCache::Found::kMissed, "a new row");
      const ColumnRows output{reinterpret_cast<const std::byte*>(&number)};
      cache_.land(*flight, &output, 0, 0);
      Flight::release(*flight, 2);
    }
  }

  void hit(std::uint64_t operations, std::uint64_t seed) {
    Random random(seed);
    for (std::uint64_t i = 0; i < operations; ++i) {
      const auto found = look_up(random.below(kKnown), [] { return nullptr; });
      bench::expect(found == PredictionCache::Found::kHit, "a hit");
    }
  }

 private:
  template <typename MakeFlight>
  PredictionCache::Found look_up(std::uint64_t number, MakeFlight&& make_flight) {
    const Row row = row_of(number);
    const ColumnRows column{reinterpret_cast<const std::byte*>(&row)};
    std::uint64_t output = 0;
    const auto found = cache_.look_up(
        cache_.key_of(&column, 0), {}, 0, reinterpret_cast<std::byte*>(&output),
        [](const Flight&) { return false; }, make_flight);
    bench::expect(found != PredictionCache::Found::kHit || output == number, "its own answer");
    return found;
  }

  const OutputLayout layout_{RowSpec{{DTypeCode::kUInt, 64}, {}}};
  PredictionCache cache_{{.bytes = std::size_t{64} << 20},
                         RowSpec{{DTypeCode::kUInt, 64}, {8}},
                         layout_,
                         std::make_unique<Nobody>()};
};

void name_rows(const RowHasher& hasher, std::size_t bytes, std::uint64_t operations) {
  std::vector<std::byte> row(bytes);
  const ColumnRows column{row.data()};
  for (std::uint64_t i = 0; i < operations; ++i) {
    std::memcpy(row.data(), &i, sizeof i);
    bench::keep(hasher(&column, 0));
  }
}

void put_new(EntryStore& store, std::uint64_t& number, std::uint64_t operations) {
  Random random(++number);
  for (std::uint64_t i = 0; i < operations; ++i) {
    const ColumnRows column{reinterpret_cast<const std::byte*>(&i)};
    bench::keep(store.put({random(), random()}, &column, 0, kNever, 0));
  }
}

void put_in_map(std::unordered_map<std::uint64_t, std::uint64_t>& map, std::uint64_t operations) {
  Random random(operations);
  for (std::uint64_t i = 0; i < operations; ++i) {
    if (map.size() >= kKnown) map.erase(map.begin());
    map[random()] = i;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  const SipKey key{1, 2};
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{3136}}) {
    const RowHasher hasher(key, 0, {{DTypeCode::kUInt, 8}, {static_cast<std::int64_t>(bytes)}});
    std::vector<std::byte> row(bytes);
    bench.compare(("name a row of " + std::to_string(bytes) + " bytes").c_str(), 20'000,
                  {{"std::hash, 64 bits, no key",
                    [&](auto n) {
                      for (std::uint64_t i = 0; i < n; ++i) {
                        std::memcpy(row.data(), &i, sizeof i);
                        bench::keep(std::hash<std::string_view>()(
                            {reinterpret_cast<const char*>(row.data()), bytes}));
                      }
                    }},
                   {"RowHasher", [&](auto n) { name_rows(hasher, bytes, n); }}});
  }

  Filled filled;
  bench.compare("name a row of 64 bytes and find its answer", 500'000,
                {{"one thread", [&](auto n) { filled.hit(n, 1); }},
                 {"two threads, each half of them", [&](auto n) {
                    bench::on_threads(2, [&](unsigned number) { filled.hit(n / 2, number); });
                  }}});

  Answered answered;
  bench.compare("a query that is a hit, submit to release, 64 bytes", 200'000,
                {{"one thread", [&](auto n) { answered.hit(n, 1); }},
                 {"two threads, each half of them", [&](auto n) {
                    bench::on_threads(2, [&](unsigned number) { answered.hit(n / 2, number); });
                  }}});

  const OutputLayout layout{RowSpec{{DTypeCode::kUInt, 64}, {}}};
  EntryStore store(layout, EntryStore::bytes_for(layout, kKnown));
  std::unordered_map<std::uint64_t, std::uint64_t> map;
  std::uint64_t number = 0;
  bench.compare("keep an answer where there is no room", 50'000,
                {{"std::unordered_map, evicting any", [&](auto n) { put_in_map(map, n); }},
                 {"EntryStore", [&](auto n) { put_new(store, number, n); }}});
  return 0;
}
