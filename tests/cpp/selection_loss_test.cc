// Losses: what each kind makes of outputs and labels of every dtype.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "base/element.h"
#include "base/errors.h"
#include "check.h"
#include "selection/loss.h"

namespace {

using namespace clipper;

constexpr DType kFloat32{DTypeCode::kFloat, 32};
constexpr DType kInt64{DTypeCode::kInt, 64};

template <class T>
const std::byte* bytes_of(const T* values) {
  return reinterpret_cast<const std::byte*>(values);
}

/// The loss of outputs against the label at `place`.
template <class T>
float loss_of(LossKind kind, double scale, const RowSpec& spec, const std::vector<T>& output,
              const std::vector<T>& labels, std::uint32_t place = 0) {
  const ColumnRows rows{bytes_of(labels.data())};
  Labels said;
  said.rows = &rows;
  return Loss(kind, scale, spec).of(bytes_of(output.data()), OutputLayout(spec), said, place);
}

float loss_of_class(LossKind kind, double scale, const std::vector<float>& output,
                    std::int64_t label) {
  const RowSpec spec(kFloat32, {static_cast<std::int64_t>(output.size())});
  Labels said;
  said.classes = &label;
  return Loss(kind, scale, spec).of(bytes_of(output.data()), OutputLayout(spec), said, 0);
}

TEST(zero_one_is_whether_the_output_is_the_label) {
  const RowSpec spec(kInt64, {2});
  using Row = std::vector<std::int64_t>;
  CHECK_EQ(loss_of(LossKind::kZeroOne, 1, spec, Row{1, 2}, Row{1, 2}), 0.0F);
  CHECK_EQ(loss_of(LossKind::kZeroOne, 1, spec, Row{1, 2}, Row{1, 3}), 1.0F);
  CHECK_EQ(loss_of(LossKind::kZeroOne, 1, spec, Row{1, 2}, Row{0, 0, 1, 2}, 1), 0.0F);
}

TEST(zero_one_compares_floats_by_value) {
  const RowSpec spec(kFloat32, {});
  using Row = std::vector<float>;
  CHECK_EQ(loss_of(LossKind::kZeroOne, 1, spec, Row{-0.0F}, Row{0.0F}), 0.0F);
  CHECK_EQ(loss_of(LossKind::kZeroOne, 1, spec, Row{NAN}, Row{0.0F}), 1.0F);
  CHECK_EQ(loss_of(LossKind::kZeroOne, 1, spec, Row{1e-30F}, Row{0.0F}), 1.0F);
}

TEST(zero_one_of_a_class_is_whether_the_largest_element_is_the_one) {
  CHECK_EQ(loss_of_class(LossKind::kZeroOne, 1, {0.1F, 0.7F, 0.2F}, 1), 0.0F);
  CHECK_EQ(loss_of_class(LossKind::kZeroOne, 1, {0.1F, 0.7F, 0.2F}, 2), 1.0F);
  CHECK_EQ(loss_of_class(LossKind::kZeroOne, 1, {-3.0F, -2.0F}, 1), 0.0F);
  CHECK_EQ(loss_of_class(LossKind::kZeroOne, 1, {NAN, -2.0F}, 1), 0.0F);
  CHECK_EQ(loss_of_class(LossKind::kZeroOne, 1, {NAN, NAN}, 0), 1.0F);
}

TEST(zero_one_compares_bytes_and_several_tensors) {
  RowSpec spec(kInt64, {});
  spec.columns.push_back({{DTypeCode::kUInt, 8}, {}, true});
  const OutputLayout layout(spec);
  std::vector<std::byte> row(layout.row_bytes());
  layout.prepare(row.data(), 1);
  const std::int64_t number = 7;
  const char* text = "right";
  const std::array<ColumnRows, 2> written{{{bytes_of(&number)}, {bytes_of(text), nullptr, {0, 5}}}};
  CHECK(layout.write(row.data(), written.data(), 0, 1));

  const std::array<std::int64_t, 4> numbers{7, 7, 8, 7};
  const char* texts = "rightwrongrightrigh";
  const std::array<std::int64_t, 5> begins{0, 5, 10, 15, 19};
  const std::array<ColumnRows, 2> labels{
      {{bytes_of(numbers.data())}, {bytes_of(texts), begins.data()}}};
  Labels said;
  said.rows = labels.data();
  const Loss loss(LossKind::kZeroOne, 1, spec);
  const std::array<float, 4> wanted{0.0F, 1.0F, 1.0F, 1.0F};
  for (std::uint32_t i = 0; i < 4; ++i) {
    CHECK_EQ(loss.of(row.data(), layout, said, i), wanted[i]);
  }
  layout.clear(row.data(), 1);
}

TEST(absolute_and_squared_are_means_over_their_scale_and_end_at_one) {
  const RowSpec spec(kFloat32, {2});
  using Row = std::vector<float>;
  CHECK_NEAR(loss_of(LossKind::kAbsolute, 10, spec, Row{1, 2}, Row{2, 5}), 0.2, 1e-7);
  CHECK_NEAR(loss_of(LossKind::kSquared, 10, spec, Row{1, 2}, Row{2, 5}), 0.05, 1e-7);
  CHECK_EQ(loss_of(LossKind::kAbsolute, 1, spec, Row{1, 2}, Row{2, 5}), 1.0F);
  CHECK_EQ(loss_of(LossKind::kSquared, 1, spec, Row{NAN, 2}, Row{2, 5}), 1.0F);
  CHECK_EQ(loss_of(LossKind::kAbsolute, 1, spec, Row{HUGE_VALF, 2}, Row{2, 5}), 1.0F);
  CHECK_EQ(loss_of(LossKind::kAbsolute, 1, spec, Row{2, 5}, Row{2, 5}), 0.0F);
}

TEST(log_loss_is_of_the_right_class_over_its_scale) {
  const double scale = std::log(1000.0);
  CHECK_NEAR(loss_of_class(LossKind::kLog, scale, {0.1F, 0.9F}, 1), -std::log(0.9) / scale, 1e-6);
  CHECK_NEAR(loss_of_class(LossKind::kLog, scale, {0.1F, 0.9F}, 0), 1.0 / 3.0, 1e-6);
  CHECK_EQ(loss_of_class(LossKind::kLog, scale, {0.0F, 1.0F}, 0), 1.0F);
  CHECK_EQ(loss_of_class(LossKind::kLog, scale, {0.0F, 1.000001F}, 1), 0.0F);
  // What is no probability.
  for (const float wrong : {-1.0F, 5.0F, NAN, HUGE_VALF}) {
    CHECK_EQ(loss_of_class(LossKind::kLog, scale, {0.0F, wrong}, 1), 1.0F);
  }
  // A single one is that of class 1.
  CHECK_NEAR(loss_of_class(LossKind::kLog, scale, {0.1F}, 1), 1.0 / 3.0, 1e-6);
  CHECK_NEAR(loss_of_class(LossKind::kLog, scale, {0.9F}, 0), 1.0 / 3.0, 1e-6);
}

TEST(every_real_dtype_is_read) {
  struct Case {
    DType dtype;
    std::uint64_t bits;
    double value;
  };
  for (const Case& one : std::vector<Case>{
           {{DTypeCode::kBool, 8}, 1, 1.0},
           {{DTypeCode::kInt, 8}, 0xfd, -3.0},
           {{DTypeCode::kInt, 16}, 0xfffd, -3.0},
           {{DTypeCode::kInt, 32}, 0xfffffffd, -3.0},
           {{DTypeCode::kInt, 64}, ~std::uint64_t{2}, -3.0},
           {{DTypeCode::kUInt, 8}, 0xfd, 253.0},
           {{DTypeCode::kUInt, 16}, 0xfffd, 65533.0},
           {{DTypeCode::kUInt, 32}, 0xfffffffd, 4294967293.0},
           {{DTypeCode::kUInt, 64}, std::uint64_t{1} << 63, 0x1p63},
           {{DTypeCode::kFloat, 16}, 0x3c00, 1.0},
           {{DTypeCode::kFloat, 16}, 0xc580, -5.5},
           {{DTypeCode::kFloat, 16}, 0x0001, 0x1p-24},
           {{DTypeCode::kFloat, 16}, 0x7c00, HUGE_VAL},
           {{DTypeCode::kFloat, 32}, 0xc0b00000, -5.5},
           {{DTypeCode::kFloat, 64}, 0xc016000000000000, -5.5},
           {{DTypeCode::kBfloat, 16}, 0xc0b0, -5.5},
       }) {
    CHECK(is_real(one.dtype));
    std::array<std::byte, 16> memory{};
    std::memcpy(memory.data() + one.dtype.bytes(), &one.bits, one.dtype.bytes());
    CHECK_EQ(element_of(memory.data(), one.dtype, 1), one.value);
  }
  CHECK(std::isnan(half_to_double(0x7c01)));
  CHECK(!is_real({DTypeCode::kComplex, 64}));
  CHECK(!is_real({DTypeCode::kBfloat, 8}));
}

bool is_refused(LossKind kind, double scale, const RowSpec& spec) {
  try {
    const Loss loss(kind, scale, spec);
    return false;
  } catch (const Error& error) {
    return error.code() == ErrorCode::kInvalidArgument;
  }
}

TEST(losses_are_refused_where_they_mean_nothing) {
  const RowSpec numbers(kFloat32, {3});
  const RowSpec text(TensorSpec{{DTypeCode::kUInt, 8}, {}, true});
  const RowSpec complex(DType{DTypeCode::kComplex, 64}, {});
  for (const LossKind kind : {LossKind::kAbsolute, LossKind::kSquared, LossKind::kLog}) {
    CHECK(!is_refused(kind, 1, numbers));
    CHECK(is_refused(kind, 1, text));
    CHECK(is_refused(kind, 1, complex));
  }
  CHECK(!is_refused(LossKind::kZeroOne, 1, text));
  CHECK(!is_refused(LossKind::kZeroOne, 1, complex));
  CHECK(is_refused(LossKind::kLog, 1, RowSpec(kInt64, {3})));
  CHECK(is_refused(LossKind::kLog, 1, RowSpec(kFloat32, {3, 3})));
  for (const double scale : {0.0, -1.0, static_cast<double>(NAN), HUGE_VAL}) {
    CHECK(is_refused(LossKind::kAbsolute, scale, numbers));
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
