#include "selection/ballot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/errors.h"

namespace clipper {
namespace {

double number_at(const std::byte* column, std::size_t element, std::uint8_t bits) noexcept {
  if (bits == 32) {
    float number;
    std::memcpy(&number, column + element * sizeof number, sizeof number);
    return static_cast<double>(number);
  }
  double number;
  std::memcpy(&number, column + element * sizeof number, sizeof number);
  return number;
}

void put_number(double number, std::byte* column, std::size_t element, std::uint8_t bits) noexcept {
  if (bits == 32) {
    const auto narrow = static_cast<float>(number);
    std::memcpy(column + element * sizeof narrow, &narrow, sizeof narrow);
  } else {
    std::memcpy(column + element * sizeof number, &number, sizeof number);
  }
}

}  // namespace

bool Ballot::can_take_mean(const RowSpec& spec) noexcept {
  return !spec.columns.empty() &&
         std::all_of(spec.columns.begin(), spec.columns.end(), [](const TensorSpec& tensor) {
           return !tensor.ragged && tensor.dtype.code == DTypeCode::kFloat &&
                  (tensor.dtype.bits == 32 || tensor.dtype.bits == 64);
         });
}

Ballot::Ballot(const RowSpec& spec, bool takes_mean) {
  if (!takes_mean) return;
  if (!can_take_mean(spec)) {
    throw Error(ErrorCode::kInvalidArgument,
                "a mean can be taken of tensors of float32 or float64 with a fixed shape only");
  }
  for (const TensorSpec& tensor : spec.columns) {
    columns_.push_back({tensor.elements(), tensor.dtype.bits});
  }
}

Combined Ballot::count(std::span<const Answer> answers, std::span<const double> weights,
                       const OutputLayout& layout, std::byte* output) const noexcept {
  return columns_.empty() ? vote(answers, weights, layout) : mean(answers, weights, layout, output);
}

bool Ballot::agree(const OutputLayout& layout, const std::byte* a,
                   const std::byte* b) const noexcept {
  return columns_.empty() ? layout.equal(a, b) : largest(layout, a) == largest(layout, b);
}

Combined Ballot::vote(std::span<const Answer> answers, std::span<const double> weights,
                      const OutputLayout& layout) const noexcept {
  std::size_t winner = 0;
  double most = 0.0;
  double total = 0.0;
  // Quadratic in the number of models, which is small; and nothing is allocated.
  for (std::size_t candidate = 0; candidate < answers.size(); ++candidate) {
    total += weights[answers[candidate].model];
    const std::byte* output = answers[candidate].output;
    if (output == nullptr) continue;
    double votes = 0.0;
    for (const Answer& other : answers) {
      if (other.output == nullptr || !layout.equal(output, other.output)) continue;
      votes += weights[other.model];
    }
    if (votes <= most) continue;
    most = votes;
    winner = candidate;
  }
  if (most <= 0.0) return {};
  return {true, winner, static_cast<float>(std::min(most / total, 1.0))};
}

Combined Ballot::mean(std::span<const Answer> answers, std::span<const double> weights,
                      const OutputLayout& layout, std::byte* output) const noexcept {
  std::array<bool, kMaxModels> counts{};
  double total = 0.0;
  double there = 0.0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const double weight = weights[answers[i].model];
    total += weight;
    counts[i] = answers[i].output != nullptr && is_finite(layout, answers[i].output);
    if (counts[i]) there += weight;
  }
  if (there <= 0.0) return {};
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    const auto [elements, bits] = columns_[c];
    const std::size_t offset = layout.columns()[c].offset;
    for (std::size_t element = 0; element < elements; ++element) {
      double sum = 0.0;
      for (std::size_t i = 0; i < answers.size(); ++i) {
        if (!counts[i]) continue;
        sum += weights[answers[i].model] / there *
               number_at(answers[i].output + offset, element, bits);
      }
      put_number(sum, output + offset, element, bits);
    }
  }
  const std::size_t said = largest(layout, output);
  double agreeing = 0.0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (counts[i] && largest(layout, answers[i].output) == said) {
      agreeing += weights[answers[i].model];
    }
  }
  return {true, Combined::kWritten, static_cast<float>(std::min(agreeing / total, 1.0))};
}

bool Ballot::is_finite(const OutputLayout& layout, const std::byte* row) const noexcept {
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    for (std::size_t element = 0; element < columns_[c].elements; ++element) {
      const std::byte* column = row + layout.columns()[c].offset;
      if (!std::isfinite(number_at(column, element, columns_[c].bits))) return false;
    }
  }
  return true;
}

std::size_t Ballot::largest(const OutputLayout& layout, const std::byte* row) const noexcept {
  const std::byte* column = row + layout.columns()[0].offset;
  std::size_t place = 0;
  double largest = -HUGE_VAL;
  for (std::size_t element = 0; element < columns_[0].elements; ++element) {
    const double number = number_at(column, element, columns_[0].bits);
    if (number <= largest) continue;
    place = element;
    largest = number;
  }
  return place;
}

}  // namespace clipper
