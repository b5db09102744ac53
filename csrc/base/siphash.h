// SipHash with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF",
// INDOCRYPT 2012, and its authors' 128-bit variant): a hash that nobody can find collisions of who
// does not know its key.
//
// SipHash128<2, 4> is the published function. SipHash128<1, 3> does half the work for each word; it
// is what Python, Rust and Ruby hash their dictionaries with, where nobody sees the hashes either.
//
// Thread safety: none. One object hashes one message.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace clipper {

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

struct SipKey {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
};

struct Hash128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

template <int kRoundsPerWord, int kLastRounds>
class SipHash128 {
 public:
  explicit SipHash128(const SipKey& key) noexcept
      : v0_(0x736f6d6570736575 ^ key.low),
        v1_(0x646f72616e646f6d ^ key.high ^ 0xee),
        v2_(0x6c7967656e657261 ^ key.low),
        v3_(0x7465646279746573 ^ key.high) {}

  /// Continues the message.
  void add(const std::byte* bytes, std::size_t count) noexcept {
    length_ += count;
    if (waiting_bytes_ > 0) {
      while (count > 0 && waiting_bytes_ < sizeof(std::uint64_t)) {
        wait_for_more(*bytes++);
        --count;
      }
      if (waiting_bytes_ < sizeof(std::uint64_t)) return;
      compress(waiting_);
      waiting_ = 0;
      waiting_bytes_ = 0;
    }
    for (; count >= sizeof(std::uint64_t); count -= sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes, sizeof word);
      compress(word);
      bytes += sizeof word;
    }
    for (; count > 0; --count) wait_for_more(*bytes++);
  }
  void add(std::uint64_t word) noexcept {
    add(reinterpret_cast<const std::byte*>(&word), sizeof word);
  }

  /// The hash of all that was added. Ends the message.
  [[nodiscard]] Hash128 finish() noexcept {
    compress(waiting_ | (length_ << 56));
    v2_ ^= 0xee;
    for (int i = 0; i < kLastRounds; ++i) round();
    const std::uint64_t low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    for (int i = 0; i < kLastRounds; ++i) round();
    return {low, v0_ ^ v1_ ^ v2_ ^ v3_};
  }

 private:
  void wait_for_more(std::byte byte) noexcept {
    waiting_ |= std::to_integer<std::uint64_t>(byte) << (8 * waiting_bytes_++);
  }

  void compress(std::uint64_t word) noexcept {
    v3_ ^= word;
    for (int i = 0; i < kRoundsPerWord; ++i) round();
    v0_ ^= word;
  }

  void round() noexcept {
    v0_ += v1_;
    v2_ += v3_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v1_;
    v0_ += v3_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ = std::rotl(v2_, 32);
  }

  std::uint64_t v0_;
  std::uint64_t v1_;
  std::uint64_t v2_;
  std::uint64_t v3_;
  std::uint64_t waiting_ = 0;  // the last bytes, while they make no word
  std::size_t waiting_bytes_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace clipper
