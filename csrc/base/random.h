// The one source of randomness: xoshiro256** (Blackman and Vigna, "Scrambled linear pseudorandom
// number generators", 2021), its state filled by SplitMix64 as its authors advise. The same seed
// gives the same numbers everywhere; none of it is fit for secrets.
//
// Thread safety: none. One object belongs to one thread, or is guarded by what owns it.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace clipper {

/// Also a std::uniform_random_bit_generator, for the distributions of <random>.
class Random {
 public:
  using result_type = std::uint64_t;

  explicit Random(std::uint64_t seed) noexcept {
    for (std::uint64_t& word : state_) word = split_mix(seed);
  }

  /// 64 random bits.
  std::uint64_t operator()() noexcept {
    const std::uint64_t bits = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return bits;
  }
  static constexpr std::uint64_t min() noexcept { return 0; }
  static constexpr std::uint64_t max() noexcept {
    return std::numeric_limits<std::uint64_t>::max();
  }

  /// In [0, 1), evenly spaced by 2^-53.
  double uniform() noexcept { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }

  /// In [0, n), without bias (Lemire, "Fast random integer generation in an interval", 2019).
  /// REQUIRES: n >= 1.
  std::uint64_t below(std::uint64_t n) noexcept {
    Wide product = static_cast<Wide>((*this)()) * n;
    if (static_cast<std::uint64_t>(product) < n) {
      // 2^64 mod n of the low halves would be hit once too often: draw those again.
      const std::uint64_t surplus = (0 - n) % n;
      while (static_cast<std::uint64_t>(product) < surplus) {
        product = static_cast<Wide>((*this)()) * n;
      }
    }
    return static_cast<std::uint64_t>(product >> 64);
  }

  /// Exponentially distributed, as the gaps of a Poisson process are. In the unit of `mean`.
  double exponential(double mean) noexcept { return -mean * std::log1p(-uniform()); }

 private:
  __extension__ using Wide = unsigned __int128;

  static std::uint64_t split_mix(std::uint64_t& seed) noexcept {
    std::uint64_t mixed = (seed += 0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }

  std::array<std::uint64_t, 4> state_;
};

}  // namespace clipper
