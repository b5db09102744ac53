// Memory for rows: reserved in a block, against allocated one by one and gathered for the batch.
#include <cstring>
#include <vector>

#include "measure.h"
#include "queue/row_blocks.h"

namespace {

using namespace clipper;

constexpr std::uint32_t kBatch = 64;

void reserve_one(RowBlocks& blocks, std::uint64_t operations) {
  for (std::uint64_t i = 0; i < operations; ++i) {
    const auto run = blocks.reserve(1);
    bench::expect(run.has_value(), "an idle pool has a row");
    bench::keep(*blocks.row(*run->block, run->first));
    RowBlocks::release(*run->block, 1);
  }
}

void allocate_one(std::size_t bytes, std::uint64_t operations) {
  for (std::uint64_t i = 0; i < operations; ++i) {
    void* row = std::malloc(bytes);
    bench::keep(row);
    std::free(row);
  }
}

/// An operation is a row that is written and reaches its batch: here where it was written.
void assemble_in_block(RowBlocks& blocks, const std::byte* source, std::uint64_t operations) {
  const std::size_t bytes = blocks.row_bytes();
  for (std::uint64_t done = 0; done < operations; done += kBatch) {
    RowRun first;
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      const auto run = blocks.reserve(1);
      bench::expect(run.has_value(), "the pool has a row");
      if (i == 0) first = *run;
      std::memcpy(blocks.row(*run->block, run->first), source, bytes);
    }
    bench::keep(*blocks.row(*first.block, first.first));
    RowBlocks::release(*first.block, kBatch);
  }
}

/// The same with rows that are copied when they arrive, and copied together for the batch.
void assemble_from_heap(std::size_t bytes, const std::byte* source, std::uint64_t operations) {
  std::vector<std::byte*> rows(kBatch);
  std::vector<std::byte> batch(kBatch * bytes);
  for (std::uint64_t done = 0; done < operations; done += kBatch) {
    for (std::byte*& row : rows) {
      row = static_cast<std::byte*>(std::malloc(bytes));
      std::memcpy(row, source, bytes);
    }
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      std::memcpy(batch.data() + i * bytes, rows[i], bytes);
      std::free(rows[i]);
    }
    bench::keep(batch[0]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{3136}}) {
    const std::vector<std::byte> source(bytes);
    // A block of whole batches, so that each batch is one run.
    RowBlocks blocks(bytes, std::size_t{64} << 20, kBatch * 16);
    const std::string size = " a row of " + std::to_string(bytes) + " bytes";
    bench.compare(("take and give back" + size).c_str(), 200'000,
                  {{"malloc and free", [&](auto n) { allocate_one(bytes, n); }},
                   {"reserve and release", [&](auto n) { reserve_one(blocks, n); }}});
    bench.compare(
        ("bring into a batch of 64" + size).c_str(), 64'000,
        {{"malloc, then gather", [&](auto n) { assemble_from_heap(bytes, source.data(), n); }},
         {"written in its block", [&](auto n) { assemble_in_block(blocks, source.data(), n); }}});
    bench.compare(
        ("two threads take and give back" + size).c_str(), 200'000,
        {{"malloc and free",
          [&](auto n) { bench::on_threads(2, [&](unsigned) { allocate_one(bytes, n / 2); }); }},
         {"reserve and release",
          [&](auto n) { bench::on_threads(2, [&](unsigned) { reserve_one(blocks, n / 2); }); }}});
  }
  return 0;
}
