// The way of rows to a driver: queue, blocks, window, mailbox.
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "queue/mailbox.h"
#include "queue/request_queue.h"
#include "queue/row_blocks.h"
#include "queue/window.h"

namespace {

using namespace clipper;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint32_t kEach = 10'000;
#else
constexpr std::uint32_t kEach = 100'000;
#endif

TEST(a_queue_keeps_the_order_and_its_bound) {
  RequestQueue<int> queue(5);
  CHECK_EQ(queue.capacity(), 8u);
  int value = 0;
  for (int round = 0; round < 3; ++round) {
    CHECK(queue.empty() && !queue.try_pop(value));
    for (int i = 0; i < 8; ++i) CHECK(queue.try_push(i));
    CHECK(!queue.try_push(8) && !queue.empty());
    for (int i = 0; i < 8; ++i) {
      CHECK(queue.try_pop(value));
      CHECK_EQ(value, i);
    }
  }
}

TEST(a_queue_between_threads_loses_and_doubles_nothing) {
  constexpr std::uint32_t kProducers = 3;
  RequestQueue<std::uint32_t> queue(64);
  std::vector<std::atomic<int>> seen(kProducers * kEach);
  std::atomic<std::uint32_t> left{kProducers * kEach};
  std::vector<std::jthread> threads;
  for (std::uint32_t producer = 0; producer < kProducers; ++producer) {
    threads.emplace_back([&, producer] {
      for (std::uint32_t i = 0; i < kEach; ++i) {
        while (!queue.try_push(producer * kEach + i)) std::this_thread::yield();
      }
    });
  }
  for (int consumer = 0; consumer < 2; ++consumer) {
    threads.emplace_back([&] {
      std::vector<std::int64_t> last(kProducers, -1);
      std::uint32_t value = 0;
      while (left.load() > 0) {
        if (!queue.try_pop(value)) {
          std::this_thread::yield();
          continue;
        }
        // Each consumer sees the entries of one producer in order.
        CHECK(std::int64_t{value} > last[value / kEach]);
        last[value / kEach] = value;
        seen[value].fetch_add(1);
        left.fetch_sub(1);
      }
    });
  }
  threads.clear();
  for (const auto& times : seen) CHECK_EQ(times.load(), 1);
  CHECK(queue.empty());
}

TEST(an_empty_block_starts_again_from_its_first_row) {
  const auto pool = std::make_shared<RowBlocks>(1024, 128 << 10, 1);
  CHECK_EQ(pool->block_rows(), 64u);
  const auto first = pool->reserve(3);
  const auto second = pool->reserve(2);
  CHECK(first && second);
  CHECK_EQ(first->first, 0u);
  CHECK_EQ(second->first, 3u);
  CHECK(first->block == second->block);
  RowBlocks::release(*first->block, 3);
  const auto third = pool->reserve(1);
  CHECK_EQ(third->first, 5u);
  RowBlocks::release(*first->block, 3);
  const auto again = pool->reserve(1);
  CHECK(again->block == first->block);
  CHECK_EQ(again->first, 0u);
}

TEST(a_lease_keeps_its_block_and_a_full_budget_refuses) {
  const auto pool = std::make_shared<RowBlocks>(1024, 128 << 10, 1);
  const auto kept = pool->reserve(64);
  const auto other = pool->reserve(64);
  CHECK(kept && other && kept->block != other->block);
  CHECK_EQ(pool->bytes_in_use(), std::size_t{128} << 10);
  CHECK(!pool->reserve(1));
  RowBlocks::lease(*kept->block);
  RowBlocks::release(*kept->block, 64);
  CHECK(!pool->reserve(1));
  RowBlocks::release(*kept->block, 1);
  const auto after = pool->reserve(64);
  CHECK(after && after->block == kept->block);
  RowBlocks::release(*after->block, 64);
  RowBlocks::release(*other->block, 64);
  CHECK_EQ(pool->bytes_in_use(), std::size_t{64} << 10);  // the open one
}

TEST(threads_never_share_a_row) {
  const auto pool = std::make_shared<RowBlocks>(1024, 256 << 10, 1);
  std::vector<std::jthread> threads;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([&, seed] {
      Random random(seed);
      std::vector<std::pair<RowRun, std::uint64_t>> held;
      for (std::uint32_t i = 0; i < kEach; ++i) {
        if (const auto run = pool->reserve(1 + static_cast<std::uint32_t>(random.below(4)))) {
          const std::uint64_t mark = random();
          for (std::uint32_t row = 0; row < run->rows; ++row) {
            std::memcpy(pool->row(*run->block, run->first + row), &mark, sizeof mark);
          }
          held.emplace_back(*run, mark);
        }
        while (held.size() > 16 || (i + 1 == kEach && !held.empty())) {
          std::swap(held[random.below(held.size())], held.back());
          const auto [run, mark] = held.back();
          held.pop_back();
          for (std::uint32_t row = 0; row < run.rows; ++row) {
            CHECK_EQ(std::memcmp(pool->row(*run.block, run.first + row), &mark, sizeof mark), 0);
          }
          RowBlocks::release(*run.block, run.rows);
        }
      }
    });
  }
  threads.clear();
  CHECK(pool->bytes_in_use() <= pool->block_rows() * pool->row_bytes());
  const auto run = pool->reserve(1);
  CHECK(run.has_value());
  CHECK_EQ(run->first, 0u);
}

WaitingRows waiting(std::uint32_t number, Nanos deadline_ns, std::uint32_t rows) {
  WaitingRows entry;
  entry.handle.slot = number;
  entry.deadline_ns = deadline_ns;
  entry.run.rows = rows;
  return entry;
}

/// Ties go to the one that came first.
TEST(a_window_is_a_stable_sort_by_deadline) {
  Random random(7);
  for (int round = 0; round < 300; ++round) {
    Window window;
    std::vector<WaitingRows> model;
    for (std::uint32_t i = 0; i < 200; ++i) {
      if (random.below(3) > 0 || model.empty()) {
        const auto at = static_cast<Nanos>(random.below(8) + i / 20);
        model.push_back(waiting(i, at, 1 + static_cast<std::uint32_t>(random.below(4))));
        window.push(model.back());
        std::stable_sort(model.begin(), model.end(), [](const auto& a, const auto& b) {
          return a.deadline_ns < b.deadline_ns;
        });
      } else if (random.below(20) == 0) {
        const auto is_dead = [&](const WaitingRows& entry) { return entry.handle.slot % 3 == 0; };
        std::size_t buried = 0;
        window.sweep(is_dead, [&](const WaitingRows&) { ++buried; });
        CHECK_EQ(std::erase_if(model, is_dead), buried);
      } else if (model.front().run.rows > 1 && random.below(2) == 0) {
        window.shorten_head(1);
        --model.front().run.rows;
        ++model.front().run.first;
        ++model.front().offset;
      } else {
        window.pop_head();
        model.erase(model.begin());
      }
      std::uint32_t rows = 0;
      for (const WaitingRows& entry : model) rows += entry.run.rows;
      CHECK_EQ(window.rows(), rows);
      CHECK_EQ(window.entries(), model.size());
      if (model.empty()) continue;
      CHECK_EQ(window.head().handle.slot, model.front().handle.slot);
      CHECK_EQ(window.head().offset, model.front().offset);
      CHECK_EQ(window.head().run.first, model.front().run.first);
    }
  }
}

bool is_ringing(const Mailbox& box) {
  pollfd doorbell{box.fd(), POLLIN, 0};
  return poll(&doorbell, 1, 0) == 1;
}

TEST(a_mailbox_keeps_the_order_and_rings_on_the_edge_for_a_sleeper) {
  Mailbox box;
  Letter letters[3];
  box.set_awake(true);
  box.post(letters[0]);
  CHECK(!is_ringing(box));
  box.set_awake(false);  // with a letter there
  CHECK(is_ringing(box));
  box.clear_signal();
  box.post(letters[1]);
  CHECK(!is_ringing(box));  // not the edge
  box.post(letters[2]);
  Letter* letter = box.take_all();
  for (Letter& expected : letters) {
    CHECK(letter == &expected);
    letter = letter->next_letter;
  }
  CHECK(letter == nullptr && box.empty() && box.take_all() == nullptr);
  box.post(letters[0]);
  CHECK(is_ringing(box));
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
