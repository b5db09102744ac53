#include <array>
#include <bit>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "check.h"

namespace {

using clipper::hash_bytes;
using clipper::mix_bits;

std::uint64_t hash(std::string_view text, std::uint64_t seed = 0) {
  return hash_bytes(text.data(), text.size(), seed);
}

// As xxhsum and python-xxhash print them. The longer ones reach every branch: stripes, words,
// bytes.
TEST(gives_the_published_hashes) {
  CHECK_EQ(hash("", 0), 0xef46db3751d8e999u);
  CHECK_EQ(hash("a", 0), 0xd24ec4f1a98c6e5bu);
  CHECK_EQ(hash("abc", 0), 0x44bc2cf5ad770999u);
  CHECK_EQ(hash("user-17", 1), 0x4005685a42240c9eu);
  CHECK_EQ(hash("Nobody inspects the spammish repetition", 0), 0xfbcea83c8a378bf1u);
  CHECK_EQ(hash("Nobody inspects the spammish repetition", 2654435761), 0x56db22dd5b051147u);
  CHECK_EQ(hash(std::string(32, 'x'), 0), 0xe2df261fc2ec30ebu);
  CHECK_EQ(hash("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef01"
                "23456789abc",
                7),
           0xd495a146088191aeu);
}

TEST(every_bit_of_the_input_turns_half_of_the_hash) {
  for (const std::size_t size : {1U, 4U, 8U, 31U, 32U, 77U}) {
    std::string text(size, 'x');
    const std::uint64_t before = hash(text);
    int turned = 0;
    for (std::size_t bit = 0; bit < size * 8; ++bit) {
      text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
      turned += std::popcount(hash(text) ^ before);
      text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    }
    const double mean = turned / static_cast<double>(size * 8);
    CHECK_NEAR(mean, 32.0, 4.0 + 12.0 / static_cast<double>(size));
  }
}

TEST(does_not_look_beyond_its_bytes) {
  const std::string text = "0123456789abcdef0123456789abcdef0123456789";
  for (std::size_t size = 0; size <= text.size(); ++size) {
    // Of exactly this size, so that AddressSanitizer sees a byte too many.
    const std::vector<char> part(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_EQ(hash_bytes(part.data(), size, 0), hash(std::string_view(text).substr(0, size)));
  }
}

TEST(other_seeds_give_other_hashes) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) seen.insert(hash("user-17", seed));
  CHECK_EQ(seen.size(), 1000u);
}

TEST(mixing_is_one_to_one_and_spreads_neighbours) {
  std::set<std::uint64_t> seen;
  std::array<int, 64> tops{};
  for (std::uint64_t number = 0; number < 64'000; ++number) {
    seen.insert(mix_bits(number));
    ++tops[mix_bits(number) >> 58];
  }
  CHECK_EQ(seen.size(), 64'000u);
  for (const int top : tops) CHECK_NEAR(top, 1000, 160);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
