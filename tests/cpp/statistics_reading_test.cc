// Labels and values are read out of rows of any type.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "statistics/output_reader.h"
#include "statistics_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

template <typename Number>
void reads_labels(DTypeCode code, std::uint8_t bits, Number number, std::int64_t label) {
  const OutputReader reader(RowSpec({code, bits}, {}));
  CHECK_EQ(reader.kind(), OutputKind::kLabels);
  const std::vector<Number> numbers{Number{}, number};
  const ColumnRows rows = rows_of(numbers);
  CHECK_EQ(reader.read(&rows, 1).label, label);
  CHECK_EQ(reader.read(&rows, 0).label, 0);
}

TEST(labels_of_every_integer_type_are_read) {
  reads_labels<std::int8_t>(DTypeCode::kInt, 8, -5, -5);
  reads_labels<std::uint8_t>(DTypeCode::kUInt, 8, 250, 250);
  reads_labels<std::uint8_t>(DTypeCode::kBool, 8, 1, 1);
  reads_labels<std::int16_t>(DTypeCode::kInt, 16, -500, -500);
  reads_labels<std::uint16_t>(DTypeCode::kUInt, 16, 65'000, 65'000);
  reads_labels<std::int32_t>(DTypeCode::kInt, 32, -70'000, -70'000);
  reads_labels<std::uint32_t>(DTypeCode::kUInt, 32, 4'000'000'000, 4'000'000'000);
  reads_labels<std::int64_t>(DTypeCode::kInt, 64, -1LL << 60, -1LL << 60);
  reads_labels<std::uint64_t>(DTypeCode::kUInt, 64, ~0ULL, -1);
}

template <typename Number>
double value_of(DType dtype, Number bits) {
  const OutputReader reader(RowSpec(dtype, {}));
  CHECK_EQ(reader.kind(), OutputKind::kValues);
  const std::vector<Number> numbers{bits};
  const ColumnRows rows = rows_of(numbers);
  return reader.read(&rows, 0).value;
}

TEST(values_of_every_float_type_are_read) {
  CHECK_EQ(value_of<float>(kFloat32, 0.5F), 0.5);
  CHECK_EQ(value_of<double>({DTypeCode::kFloat, 64}, 0.1), 0.1);
  const DType half{DTypeCode::kFloat, 16};
  CHECK_EQ(value_of<std::uint16_t>(half, 0x3c00), 1.0);
  CHECK_EQ(value_of<std::uint16_t>(half, 0xc100), -2.5);
  CHECK_EQ(value_of<std::uint16_t>(half, 0x0001), std::ldexp(1.0, -24));
  CHECK_EQ(value_of<std::uint16_t>(half, 0x7bff), 65504.0);
  CHECK(std::isinf(value_of<std::uint16_t>(half, 0xfc00)));
  CHECK(std::isnan(value_of<std::uint16_t>(half, 0x7e00)));
  CHECK_EQ(value_of<std::uint16_t>({DTypeCode::kBfloat, 16}, 0xc040), -3.0);
}

TEST(the_largest_of_a_vector_is_its_label) {
  const OutputReader reader(RowSpec(kFloat32, {3}));
  CHECK_EQ(reader.kind(), OutputKind::kScores);
  const float nan = std::nanf("");
  const std::vector<float> scores{0.1F, 0.7F, 0.2F, 0.9F, 0.05F, 0.05F, nan, -1.0F, -2.0F};
  const ColumnRows rows = rows_of(scores);
  CHECK_EQ(reader.read(&rows, 0).label, 1);
  CHECK_NEAR(reader.read(&rows, 0).value, 0.7, 1e-6);
  CHECK_EQ(reader.read(&rows, 1).label, 0);
  CHECK_EQ(reader.read(&rows, 2).label, 1);
  CHECK_EQ(reader.read(&rows, 2).value, -1.0);
}

TEST(the_largest_is_found_wherever_it_is) {
  const float nan = std::nanf("");
  for (const std::int64_t width : {2, 15, 16, 17, 40, 1000}) {
    const OutputReader reader(RowSpec(kFloat32, {width}));
    for (std::int64_t place = 0; place < width; ++place) {
      std::vector<float> scores(static_cast<std::size_t>(width), -3.0F);
      if (width > 2) scores[static_cast<std::size_t>((place + 1) % width)] = nan;
      scores[static_cast<std::size_t>(place)] = -2.0F;
      const ColumnRows rows = rows_of(scores);
      CHECK_EQ(reader.read(&rows, 0).label, place);
      CHECK_EQ(reader.read(&rows, 0).value, -2.0);
    }
    const std::vector<float> nothing(static_cast<std::size_t>(width), nan);
    const ColumnRows rows = rows_of(nothing);
    CHECK_EQ(reader.read(&rows, 0).label, 0);
    CHECK(std::isnan(reader.read(&rows, 0).value));
  }
}

TEST(what_has_neither_label_nor_value_is_left_alone) {
  CHECK_EQ(OutputReader(RowSpec(kFloat32, {3, 3})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec(kInt64, {3})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec({DTypeCode::kComplex, 64}, {})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec(kFloat32, {20'000})).kind(), OutputKind::kNothing);
  CHECK_EQ(OutputReader(RowSpec(kFloat32, {0})).kind(), OutputKind::kNothing);
  RowSpec several(TensorSpec{kFloat32, {}, true});
  several.columns.push_back({kInt64, {1}, false});
  const OutputReader reader(several);
  CHECK_EQ(reader.kind(), OutputKind::kLabels);
  CHECK_EQ(reader.column(), 1u);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
