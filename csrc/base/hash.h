// Hashes of bytes that are the same in every process, on every machine and in every release: what
// is kept under them is found again.
//
// hash_bytes is XXH64 (Collet, "xxHash fast digest algorithm", specification 0.1.1): 64 well mixed
// bits in some nanoseconds for a name. No secret keeps anybody from making two inputs collide:
// where that would matter, a keyed hash is needed.
//
// Thread safety: all of it; pure.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace clipper {

static_assert(std::endian::native == std::endian::little, "hash_bytes reads words as they lie");

/// Spreads the differences of a number over all its bits; one to one. The last step of MurmurHash3.
[[nodiscard]] constexpr std::uint64_t mix_bits(std::uint64_t bits) noexcept {
  bits = (bits ^ (bits >> 33)) * 0xff51afd7ed558ccd;
  bits = (bits ^ (bits >> 33)) * 0xc4ceb9fe1a85ec53;
  return bits ^ (bits >> 33);
}

namespace hashing {

inline constexpr std::uint64_t kPrime1 = 0x9e3779b185ebca87;
inline constexpr std::uint64_t kPrime2 = 0xc2b2ae3d27d4eb4f;
inline constexpr std::uint64_t kPrime3 = 0x165667b19e3779f9;
inline constexpr std::uint64_t kPrime4 = 0x85ebca77c2b2ae63;
inline constexpr std::uint64_t kPrime5 = 0x27d4eb2f165667c5;

template <typename Word>
[[nodiscard]] Word read(const std::byte* bytes) noexcept {
  Word word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

[[nodiscard]] constexpr std::uint64_t round(std::uint64_t lane, std::uint64_t word) noexcept {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

[[nodiscard]] constexpr std::uint64_t merge(std::uint64_t hash, std::uint64_t lane) noexcept {
  return (hash ^ round(0, lane)) * kPrime1 + kPrime4;
}

/// Takes in whole stripes of 32 bytes, and moves `bytes` behind them.
[[nodiscard]] inline std::uint64_t of_stripes(const std::byte*& bytes, const std::byte* end,
                                              std::uint64_t seed) noexcept {
  std::uint64_t first = seed + kPrime1 + kPrime2;
  std::uint64_t second = seed + kPrime2;
  std::uint64_t third = seed;
  std::uint64_t fourth = seed - kPrime1;
  for (; end - bytes >= 32; bytes += 32) {
    first = round(first, read<std::uint64_t>(bytes));
    second = round(second, read<std::uint64_t>(bytes + 8));
    third = round(third, read<std::uint64_t>(bytes + 16));
    fourth = round(fourth, read<std::uint64_t>(bytes + 24));
  }
  const std::uint64_t hash =
      std::rotl(first, 1) + std::rotl(second, 7) + std::rotl(third, 12) + std::rotl(fourth, 18);
  return merge(merge(merge(merge(hash, first), second), third), fourth);
}

}  // namespace hashing

/// XXH64 of `size` bytes. Other seeds give hashes that have nothing to do with each other.
[[nodiscard]] inline std::uint64_t hash_bytes(const void* data, std::size_t size,
                                              std::uint64_t seed) noexcept {
  using namespace hashing;
  const auto* bytes = static_cast<const std::byte*>(data);
  const std::byte* const end = bytes + size;
  std::uint64_t hash = size >= 32 ? of_stripes(bytes, end, seed) : seed + kPrime5;
  hash += size;
  for (; end - bytes >= 8; bytes += 8) {
    hash = std::rotl(hash ^ round(0, read<std::uint64_t>(bytes)), 27) * kPrime1 + kPrime4;
  }
  if (end - bytes >= 4) {
    hash = std::rotl(hash ^ (read<std::uint32_t>(bytes) * kPrime1), 23) * kPrime2 + kPrime3;
    bytes += 4;
  }
  for (; bytes != end; ++bytes) {
    hash = std::rotl(hash ^ (static_cast<std::uint64_t>(*bytes) * kPrime5), 11) * kPrime1;
  }
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace clipper
