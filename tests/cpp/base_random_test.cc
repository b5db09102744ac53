#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "base/random.h"
#include "check.h"

namespace {

using clipper::Random;

static_assert(std::uniform_random_bit_generator<Random>);

TEST(the_same_seed_gives_the_same_numbers) {
  Random left(7), right(7), other(8);
  int equal_to_other = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t bits = left();
    CHECK_EQ(bits, right());
    equal_to_other += bits == other();
  }
  CHECK_EQ(equal_to_other, 0);
}

// A second implementation, as the authors publish it, from a state known by heart: {1, 2, 3, 4}
// cannot be reached through the constructor, so the seeding is part of the reference.
TEST(follows_the_published_algorithm) {
  std::uint64_t counter = 42;
  std::array<std::uint64_t, 4> s;
  for (std::uint64_t& word : s) {
    std::uint64_t z = (counter += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
  // SplitMix64's first output for the seed 42, as other implementations print it.
  CHECK_EQ(s[0], 0xbdd732262feb6e95u);
  const auto rotl = [](std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); };
  Random random(42);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t expected = rotl(s[1] * 5, 7) * 9;
    const std::uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    CHECK_EQ(random(), expected);
  }
}

TEST(uniform_stays_in_its_interval_and_is_even) {
  Random random(1);
  constexpr int kDraws = 100'000;
  std::array<int, 10> tenths{};
  for (int i = 0; i < kDraws; ++i) {
    const double drawn = random.uniform();
    CHECK(drawn >= 0.0 && drawn < 1.0);
    ++tenths[static_cast<std::size_t>(drawn * 10)];
  }
  for (const int tenth : tenths) CHECK_NEAR(tenth, kDraws / 10, 500);
}

TEST(below_reaches_every_number_and_no_other) {
  Random random(2);
  for (const std::uint64_t n : {1ull, 2ull, 3ull, 7ull, 1000ull}) {
    std::vector<int> hits(n);
    const int draws = static_cast<int>(n) * 100;
    for (int i = 0; i < draws; ++i) ++hits.at(random.below(n));
    for (const int hit : hits) CHECK(hit > 40 && hit < 180);
  }
  CHECK(random.below(~0ull) < ~0ull);
}

TEST(exponential_has_its_mean) {
  Random random(3);
  double sum = 0;
  constexpr int kDraws = 200'000;
  for (int i = 0; i < kDraws; ++i) {
    const double drawn = random.exponential(5.0);
    CHECK(drawn >= 0);
    sum += drawn;
  }
  CHECK_NEAR(sum / kDraws, 5.0, 0.05);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
