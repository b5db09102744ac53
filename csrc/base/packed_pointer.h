// A pointer in six bytes, for where two are all that is left of a cache line. Linux gives programs
// addresses of at most 47 bits on x86-64 and 48 on ARM unless they ask for more.
//
// Thread safety: that of a plain value.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace clipper {

template <typename T>
class PackedPointer {
 public:
  static_assert(std::endian::native == std::endian::little, "the highest bytes are left out");
  static_assert(sizeof(T*) == sizeof(std::uint64_t));

  PackedPointer() = default;
  PackedPointer(T* pointer) noexcept {  // NOLINT: stands for the pointer
    const auto bits = reinterpret_cast<std::uint64_t>(pointer);
    std::memcpy(words_.data(), &bits, sizeof words_);
  }

  [[nodiscard]] T* get() const noexcept {
    std::uint64_t bits = 0;
    std::memcpy(&bits, words_.data(), sizeof words_);
    return reinterpret_cast<T*>(bits);
  }
  [[nodiscard]] explicit operator bool() const noexcept { return get() != nullptr; }

 private:
  std::array<std::uint16_t, 3> words_{};
};

}  // namespace clipper
