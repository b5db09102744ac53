// Ragged and named tensors in blocks and outputs: what is written is what is read, whoever writes
// at the same time, and nothing is left behind.
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/output_layout.h"
#include "base/random.h"
#include "check.h"
#include "queue/row_blocks.h"

namespace {

using namespace clipper;

/// An id, a ragged column of int16 pairs, and bytes.
RowSpec spec() {
  RowSpec made;
  made.columns.push_back({{DTypeCode::kInt, 64}, {}, false});
  made.columns.push_back({{DTypeCode::kInt, 16}, {2}, true});
  made.columns.push_back({{DTypeCode::kUInt, 8}, {}, true});
  return made;
}

struct Rows {
  std::vector<std::int64_t> ids;
  std::vector<std::int16_t> pairs;
  std::vector<std::int64_t> pair_offsets{0};
  std::string blob;
  std::vector<std::int64_t> blob_offsets{0};

  Rows(Random& random, std::uint32_t count, std::uint64_t longest) {
    for (std::uint32_t i = 0; i < count; ++i) {
      ids.push_back(static_cast<std::int64_t>(random() >> 1));
      const std::uint64_t length = random.below(longest + 1);
      for (std::uint64_t j = 0; j < 2 * length; ++j) {
        pairs.push_back(static_cast<std::int16_t>(random() & 0x7fff));
      }
      pair_offsets.push_back(pair_offsets.back() + static_cast<std::int64_t>(length));
      blob += std::string(random.below(longest + 1), static_cast<char>('a' + random.below(26)));
      blob_offsets.push_back(static_cast<std::int64_t>(blob.size()));
    }
  }

  [[nodiscard]] std::vector<ColumnRows> columns() const {
    std::vector<ColumnRows> made(3);
    made[0].data = reinterpret_cast<const std::byte*>(ids.data());
    made[1].data = reinterpret_cast<const std::byte*>(pairs.data());
    made[1].offsets = pair_offsets.data();
    made[2].data = reinterpret_cast<const std::byte*>(blob.data());
    made[2].offsets = blob_offsets.data();
    return made;
  }

  [[nodiscard]] std::string text_of(std::uint32_t row) const {
    std::string text = std::to_string(ids[row]);
    for (std::int64_t i = 2 * pair_offsets[row]; i < 2 * pair_offsets[row + 1]; ++i) {
      text += ' ' + std::to_string(pairs[static_cast<std::size_t>(i)]);
    }
    return text + ' ' +
           blob.substr(static_cast<std::size_t>(blob_offsets[row]),
                       static_cast<std::size_t>(blob_offsets[row + 1] - blob_offsets[row]));
  }
};

std::string text_in(const RowRun& run, std::uint32_t index) {
  const BlockLayout& layout = *run.block->layout;
  const std::uint32_t row = run.first + index;
  std::int64_t id = 0;
  std::memcpy(&id, layout.row(run.block->data, 0, row), sizeof id);
  std::string text = std::to_string(id);
  const std::int64_t* pairs = layout.offsets(run.block->data, 1);
  for (std::int64_t i = pairs[row]; i < pairs[row + 1]; ++i) {
    std::int16_t pair[2];
    std::memcpy(pair, layout.row(run.block->data, 1, static_cast<std::uint32_t>(i)), sizeof pair);
    text += ' ' + std::to_string(pair[0]) + ' ' + std::to_string(pair[1]);
  }
  const std::int64_t* blobs = layout.offsets(run.block->data, 2);
  const std::byte* blob = layout.row(run.block->data, 2, 0);
  return text + ' ' +
         std::string(reinterpret_cast<const char*>(blob) + blobs[row],
                     static_cast<std::size_t>(blobs[row + 1] - blobs[row]));
}

void check_rows(const RowRun& run, const Rows& rows, std::uint32_t first) {
  for (std::uint32_t i = 0; i < run.rows; ++i) CHECK(text_in(run, i) == rows.text_of(first + i));
}

TEST(threads_write_ragged_rows_side_by_side) {
  // So many blocks that some stay free, however long single rows are kept.
  const auto pool = std::make_shared<RowBlocks>(spec(), std::size_t{256} << 20, 1);
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&pool, seed] {
      Random random(seed);
      std::vector<std::pair<RowRun, Rows>> kept;
      for (int i = 0; i < 400; ++i) {
        const auto count = static_cast<std::uint32_t>(1 + random.below(7));
        Rows rows(random, count, 50);
        const auto first = static_cast<std::uint32_t>(random.below(count));
        const auto run = pool->reserve(count - first, rows.columns().data(), first);
        CHECK(run.has_value());
        pool->write(*run, rows.columns().data(), first);
        check_rows(*run, rows, first);
        kept.emplace_back(*run, std::move(rows));
        if (kept.size() > 20) {
          const std::size_t at = random.below(kept.size());
          const RowRun& old = kept[at].first;
          check_rows(old, kept[at].second,
                     static_cast<std::uint32_t>(kept[at].second.ids.size()) - old.rows);
          RowBlocks::release(*old.block, old.rows);
          kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(at));
        }
      }
      for (const auto& [run, rows] : kept) RowBlocks::release(*run.block, run.rows);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(pool->bytes_in_use() < std::size_t{8} << 20);  // the open block of 4 MiB at most
}

TEST(rows_too_large_for_a_block_get_one_of_their_own_within_the_budget) {
  const auto pool = std::make_shared<RowBlocks>(spec(), std::size_t{1} << 20, 1);
  Random random(1);
  const Rows small(random, 3, 10);
  const auto beside = pool->reserve(3, small.columns().data(), 0);
  pool->write(*beside, small.columns().data(), 0);
  const std::size_t before = pool->bytes_in_use();
  const Rows large(random, 1, 150'000);
  const auto own = pool->reserve(1, large.columns().data(), 0);
  CHECK(own.has_value());
  pool->write(*own, large.columns().data(), 0);
  check_rows(*own, large, 0);
  CHECK(pool->bytes_in_use() > before);
  const Rows too_large(random, 20, 200'000);
  CHECK(!pool->reserve(20, too_large.columns().data(), 0).has_value());
  RowBlocks::release(*own->block, 1);
  CHECK(pool->bytes_in_use() == before);
  check_rows(*beside, small, 0);
  RowBlocks::release(*beside->block, 3);
}

TEST(runs_of_several_blocks_are_gathered_in_order) {
  const auto pool = std::make_shared<RowBlocks>(spec(), std::size_t{8} << 20, 1);
  Random random(2);
  std::vector<std::pair<RowRun, Rows>> parts;
  std::uint32_t total = 0;
  std::vector<std::int64_t> items(2);
  for (int i = 0; i < 10; ++i) {
    Rows rows(random, 1 + static_cast<std::uint32_t>(random.below(5)), 30);
    const auto count = static_cast<std::uint32_t>(rows.ids.size());
    const auto run = pool->reserve(count, rows.columns().data(), 0);
    pool->write(*run, rows.columns().data(), 0);
    total += count;
    items[0] += RowBlocks::items(*run, 1);
    items[1] += RowBlocks::items(*run, 2);
    parts.emplace_back(*run, std::move(rows));
  }
  const auto gathered = pool->reserve_own(total, items);
  CHECK(gathered.has_value());
  std::uint32_t at = 0;
  for (std::size_t i = parts.size(); i-- > 0;) {
    pool->append(parts[i].first, *gathered, at);
    for (std::uint32_t row = 0; row < parts[i].first.rows; ++row) {
      CHECK(text_in(*gathered, at + row) == parts[i].second.text_of(row));
    }
    at += parts[i].first.rows;
  }
  RowBlocks::release(*gathered->block, total);
  for (const auto& [run, rows] : parts) RowBlocks::release(*run.block, run.rows);
}

TEST(outputs_own_their_ragged_values) {
  const OutputLayout layout(spec());
  Random random(3);
  const Rows rows(random, 4, 20);
  std::vector<std::byte> memory(4 * layout.row_bytes() + 16);
  std::byte* outputs = memory.data() + 16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16;
  layout.prepare(outputs, 4);
  CHECK(layout.write(outputs, rows.columns().data(), 0, 4));
  CHECK(layout.write(outputs + layout.row_bytes(), rows.columns().data(), 0, 1));  // over another
  CHECK(layout.equal(outputs, outputs + layout.row_bytes()));
  CHECK(!layout.equal(outputs, outputs + 2 * layout.row_bytes()));
  std::vector<std::byte> copy_memory(layout.row_bytes() + 16);
  std::byte* copy =
      copy_memory.data() + 16 - reinterpret_cast<std::uintptr_t>(copy_memory.data()) % 16;
  layout.prepare(copy, 1);
  CHECK(layout.copy(outputs + 3 * layout.row_bytes(), copy));
  CHECK(layout.equal(copy, outputs + 3 * layout.row_bytes()));
  layout.clear(outputs, 4);
  CHECK(OutputLayout::cell(copy, layout.columns()[2]).items ==
        rows.blob_offsets[4] - rows.blob_offsets[3]);
  layout.clear(copy, 1);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
