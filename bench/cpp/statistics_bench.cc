// What a finished batch costs the statistics, by kind of output.
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "measure.h"
#include "statistics/model_statistics.h"

namespace {

using namespace clipper;

constexpr std::uint32_t kRows = 256;
constexpr std::uint64_t kBatches = 20'000;

/// Takes in the same rows again and again, `rows` a batch, a microsecond apart.
template <typename Number>
bench::Contender taking_in(std::string name, const RowSpec& output,
                           const std::vector<Number>& numbers, std::uint32_t rows) {
  return {std::move(name), [&numbers, output, rows](std::uint64_t batches) {
            ModelStatistics statistics(output, {});
            const ColumnRows given{reinterpret_cast<const std::byte*>(numbers.data())};
            Nanos now_ns = kSecond;
            for (std::uint64_t i = 0; i < batches; ++i) {
              bench::expect(!statistics.take_in(&given, rows, now_ns += kMicrosecond),
                            "nothing drifts");
            }
          }};
}

template <typename Number>
void compare(const bench::Bench& bench, const char* title, DType dtype,
             const std::vector<std::int64_t>& shape) {
  const RowSpec output(dtype, shape);
  std::vector<Number> numbers(output.columns[0].elements() * kRows);
  Random random(1);
  for (Number& number : numbers) number = static_cast<Number>(random.uniform() * 10);
  const auto copying = [&numbers](std::uint64_t batches) {
    std::vector<Number> copy(numbers.size());
    for (std::uint64_t i = 0; i < batches; ++i) {
      copy = numbers;
      bench::keep(copy[0]);
    }
  };
  bench.compare(title, kBatches,
                {{"copy all 256 rows", copying},
                 taking_in("take in one row", output, numbers, 1),
                 taking_in("take in a batch of 16", output, numbers, 16),
                 taking_in("take in a batch of 256", output, numbers, kRows)});
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  const DType real{DTypeCode::kFloat, 32};
  compare<std::int64_t>(bench, "labels", {DTypeCode::kInt, 64}, {});
  compare<float>(bench, "values", real, {});
  compare<float>(bench, "scores of 10 classes", real, {10});
  compare<float>(bench, "scores of 1000 classes", real, {1000});
  return 0;
}
