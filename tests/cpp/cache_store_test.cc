// The answers that a shard keeps: found or forgotten, never confused; within their budget; what is
// asked for again stays.
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "cache/entry_store.h"
#include "check.h"

namespace {

using namespace clipper;

constexpr std::size_t kBudget = std::size_t{64} << 10;

Hash128 key_of(std::uint64_t number) {
  Random random(number);
  return {random(), random()};
}

struct Numbers {
  OutputLayout layout{RowSpec{{DTypeCode::kInt, 64}, {}}};
  EntryStore store{layout, kBudget};

  void put(std::uint64_t key, std::int64_t value, Nanos expires_ns = kNever, Nanos now_ns = 0) {
    const ColumnRows row{reinterpret_cast<const std::byte*>(&value)};
    CHECK(store.put(key_of(key), &row, 0, expires_ns, now_ns));
  }
  [[nodiscard]] const std::int64_t* find(std::uint64_t key, Nanos now_ns = 0) {
    return reinterpret_cast<const std::int64_t*>(store.find(key_of(key), now_ns));
  }
};

TEST(an_answer_is_found_under_its_key_alone) {
  Numbers numbers;
  CHECK(numbers.find(1) == nullptr);
  numbers.put(1, 10);
  CHECK_EQ(*numbers.find(1), 10);
  CHECK(numbers.find(2) == nullptr);
  numbers.put(1, 11);
  CHECK_EQ(*numbers.find(1), 11);
  CHECK_EQ(numbers.store.entries(), 1U);
  numbers.store.clear();
  CHECK(numbers.find(1) == nullptr);
  CHECK_EQ(numbers.store.bytes(), 0U);
  numbers.put(1, 12);
  CHECK_EQ(*numbers.find(1), 12);
}

TEST(an_answer_is_good_until_it_expires) {
  Numbers numbers;
  numbers.put(1, 10, 100);
  CHECK_EQ(*numbers.find(1, 99), 10);
  CHECK(numbers.find(1, 100) == nullptr);
  CHECK_EQ(numbers.store.entries(), 0U);
}

TEST(nothing_is_ever_confused_and_the_budget_is_kept) {
  Numbers numbers;
  Random random(1);
  std::map<std::uint64_t, std::int64_t> written;
  std::uint64_t found = 0;
  for (int i = 0; i < 200'000; ++i) {
    const std::uint64_t key = random.below(4'000);
    if (random.below(2) == 0) {
      written[key] = i;
      numbers.put(key, i);
    } else if (const std::int64_t* value = numbers.find(key)) {
      CHECK_EQ(*value, written.at(key));
      ++found;
    }
    CHECK(numbers.store.bytes() <= kBudget);
  }
  CHECK(found > 10'000);
  CHECK(numbers.store.evictions() > 10'000);
  // It is used, too: less than one slot is left.
  CHECK(numbers.store.bytes() > kBudget - 128);
}

TEST(a_cold_scan_does_not_evict_what_is_asked_for_again) {
  Numbers numbers;
  const auto capacity =
      static_cast<std::uint64_t>(kBudget / EntryStore::bytes_for(numbers.layout, 1));
  const std::uint64_t hot = capacity / 2;
  for (std::uint64_t key = 0; key < hot; ++key) numbers.put(key, 1);
  for (std::uint64_t key = 0; key < hot; ++key) CHECK(numbers.find(key) != nullptr);
  // Ten times as many as there is room for, each of which comes once; meanwhile each hot one is
  // asked for now and then.
  std::uint64_t lost = 0;
  for (std::uint64_t i = 0; i < 10 * capacity; ++i) {
    numbers.put(1'000'000 + i, 2);
    if (numbers.find(i % hot) == nullptr) ++lost;
  }
  CHECK_EQ(lost, 0U);
}

TEST(the_hand_takes_a_bounded_number_of_steps) {
  // Every entry is hot: the hand lowers all before it finds a victim, but each of its steps was
  // paid for by a use. So this ends in no time; were it quadratic, it would not.
  Numbers numbers;
  for (int i = 0; i < 300'000; ++i) {
    numbers.put(static_cast<std::uint64_t>(i), i);
    for (int use = 0; use < 3; ++use) {
      static_cast<void>(numbers.find(static_cast<std::uint64_t>(i)));
    }
  }
  CHECK(numbers.store.evictions() > 290'000);
}

/// A ragged output beside a fixed one.
struct Texts {
  OutputLayout layout{spec()};
  EntryStore store{layout, kBudget};

  static RowSpec spec() {
    RowSpec made;
    made.columns.push_back({{DTypeCode::kInt, 64}, {}, false});
    made.columns.push_back({{DTypeCode::kUInt, 8}, {}, true});
    return made;
  }
  bool put(std::uint64_t key, const std::string& text) {
    const auto number = static_cast<std::int64_t>(key);
    ColumnRows row[2];
    row[0].data = reinterpret_cast<const std::byte*>(&number);
    row[1].data = reinterpret_cast<const std::byte*>(text.data());
    row[1].single[1] = static_cast<std::int64_t>(text.size());
    return store.put(key_of(key), row, 0, kNever, 0);
  }
  [[nodiscard]] bool holds(std::uint64_t key, const std::string& text) {
    const std::byte* row = store.find(key_of(key), 0);
    if (row == nullptr) return false;
    std::int64_t number = 0;
    std::memcpy(&number, row, sizeof number);
    CHECK_EQ(number, static_cast<std::int64_t>(key));
    const RaggedCell& cell = OutputLayout::cell(row, layout.columns()[1]);
    const std::string found(reinterpret_cast<const char*>(cell.data),
                            static_cast<std::size_t>(cell.items));
    CHECK_EQ(found, text);
    return true;
  }
};

TEST(ragged_answers_of_all_lengths_share_the_budget) {
  Texts texts;
  Random random(2);
  std::map<std::uint64_t, std::string> written;
  std::uint64_t found = 0;
  for (int i = 0; i < 50'000; ++i) {
    const std::uint64_t key = random.below(500);
    if (random.below(2) == 0) {
      // Mostly short ones, then mostly long ones, then short ones again.
      const std::uint64_t longest = i / 10'000 % 2 == 0 ? 40 : 8'000;
      written[key] = std::string(random.below(longest + 1), static_cast<char>('a' + key % 26));
      CHECK(texts.put(key, written[key]));
    } else if (written.contains(key) && texts.holds(key, written[key])) {
      ++found;
    }
    CHECK(texts.store.bytes() <= kBudget);
  }
  CHECK(found > 3'000);
}

TEST(an_answer_larger_than_the_budget_is_not_kept_and_harms_nobody) {
  Texts texts;
  CHECK(texts.put(1, "small"));
  CHECK(!texts.put(2, std::string(kBudget, 'x')));
  CHECK(texts.holds(1, "small"));
  for (std::uint64_t key = 10; key < 2'000; ++key) CHECK(texts.put(key, ""));
  const std::string large(kBudget * 3 / 4, 'y');
  CHECK(texts.put(3, large));  // although slots of small ones had taken the room
  CHECK(texts.holds(3, large));
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
