// What one row looks like. Field names and units are DLPack's, so that an export is a cast.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clipper {

/// DLPack's type codes.
enum class DTypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct DType {
  DTypeCode code = DTypeCode::kFloat;
  std::uint8_t bits = 32;

  [[nodiscard]] std::size_t bytes() const noexcept { return (bits + 7u) / 8u; }
  friend bool operator==(const DType&, const DType&) = default;
};

/// A tensor of fixed shape, without the batch axis. Ragged, bytes and text rows will stand beside
/// it.
struct TensorSpec {
  DType dtype;
  std::vector<std::int64_t> shape;

  [[nodiscard]] std::size_t elements() const noexcept {
    std::size_t product = 1;
    for (const std::int64_t extent : shape) product *= static_cast<std::size_t>(extent);
    return product;
  }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return elements() * dtype.bytes(); }
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

}  // namespace clipper
