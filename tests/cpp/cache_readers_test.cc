// Answers are read without a lock while others are kept, evicted and forgotten: whole, or not.
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "base/random.h"
#include "cache/entry_store.h"
#include "check.h"

namespace {

using namespace clipper;

constexpr std::size_t kRowBytes = 61;  // words and a rest
constexpr std::uint64_t kKeys = 200;
constexpr std::uint32_t kEntries = 64;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kPuts = 20'000;
#else
constexpr int kPuts = 300'000;
#endif

using Row = std::array<std::uint8_t, kRowBytes>;

Hash128 key_of(std::uint64_t number) { return {number * 0x9e3779b97f4a7c15ULL, number}; }

Row row_of(std::uint64_t number, std::uint8_t version) {
  Row row;
  row.fill(static_cast<std::uint8_t>(number));
  row.back() = row.front();
  row[1] = version;
  row[kRowBytes - 2] = version;  // both ends are of one put
  return row;
}

struct Store {
  void put(std::uint64_t number, std::uint8_t version, Nanos expires_ns = kNever) {
    const Row row = row_of(number, version);
    const ColumnRows column{reinterpret_cast<const std::byte*>(row.data())};
    CHECK(entries.put(key_of(number), &column, 0, expires_ns, 0));
  }
  bool read(std::uint64_t number, Row& row, Nanos now_ns = 0) {
    return entries.read(key_of(number), now_ns, reinterpret_cast<std::byte*>(row.data()));
  }

  const OutputLayout layout{RowSpec{{DTypeCode::kUInt, 8}, {kRowBytes}}};
  EntryStore entries{layout, EntryStore::bytes_for(layout, kEntries)};
};

TEST(what_is_kept_is_read_and_what_is_not_or_has_expired_is_not) {
  Store store;
  Row row{};
  CHECK(!store.read(1, row));
  store.put(1, 7);
  store.put(2, 8, 100);
  CHECK(store.read(1, row));
  CHECK(row == row_of(1, 7));
  CHECK(store.read(2, row, 99));
  CHECK(!store.read(2, row, 100));
  CHECK(!store.read(3, row));
  store.put(1, 9);
  CHECK(store.read(1, row));
  CHECK(row == row_of(1, 9));
  store.entries.clear();
  CHECK(!store.read(1, row));
  store.put(1, 3);
  CHECK(store.read(1, row));
  store.entries.unmap();
  CHECK(!store.read(1, row));
}

TEST(a_read_is_a_use_that_spares_an_entry) {
  Store store;
  Row row{};
  for (std::uint64_t number = 0; number < kEntries; ++number) store.put(number, 0);
  CHECK(store.read(5, row));
  for (std::uint64_t number = kEntries; number < 2 * kEntries - 1; ++number) store.put(number, 0);
  CHECK(store.read(5, row));
  CHECK(!store.read(6, row));
}

TEST(rows_with_ragged_values_are_not_read_without_the_lock) {
  const OutputLayout layout(RowSpec(TensorSpec{{DTypeCode::kUInt, 8}, {}, true}));
  EntryStore entries(layout, 1 << 16);
  std::array<std::byte, 64> output{};
  CHECK(!entries.read(key_of(1), 0, output.data()));
}

TEST(readers_see_whole_answers_while_others_come_and_go) {
  Store store;
  std::atomic<bool> is_over{false};
  std::atomic<std::uint64_t> hits{0};
  std::vector<std::thread> readers;
  for (unsigned seed = 1; seed <= 2; ++seed) {
    readers.emplace_back([&, seed] {
      Random random(seed);
      std::uint64_t found = 0;
      Row row{};
      while (!is_over.load(std::memory_order_relaxed)) {
        const std::uint64_t number = random.below(kKeys);
        if (!store.read(number, row)) continue;
        ++found;
        CHECK(row == row_of(number, row[1]));
      }
      hits += found;
    });
  }
  Random random(9);  // of the one that has the lock
  for (int i = 0; i < kPuts; ++i) {
    store.put(random.below(kKeys), static_cast<std::uint8_t>(i));
    if (random.below(5'000) == 0) store.entries.clear();
    if (i % 64 == 0) std::this_thread::yield();
  }
  is_over = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(hits.load() > 100);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
