// Slots of contexts: found, given up and used again.
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "context_scene.h"
#include "selection/context_slots.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

TEST(slots_agree_with_a_map_through_any_changes) {
  for (const std::uint32_t most : {1U, 7U, 8U, 100U, 1000U}) {
    ContextSlots slots(1, most);
    std::map<std::uint64_t, double> reference;
    Random random(most);
    for (int step = 0; step < 40'000; ++step) {
      const std::uint64_t context = random.below(most + most / 2 + 2);
      ContextSlot* found = slots.find(context);
      CHECK_EQ(found != nullptr, reference.contains(context));
      if (found == nullptr) {
        ContextSlot* added = slots.add(context);
        CHECK_EQ(added == nullptr, reference.size() == most);
        if (added != nullptr) {
          slots.state(*added)[0] = step;
          reference[context] = step;
        }
      } else {
        CHECK_EQ(slots.state(*found)[0].load(), reference[context]);
        if (random.below(2) == 0) {
          slots.remove(context);
          reference.erase(context);
        }
      }
      CHECK_EQ(slots.size(), reference.size());
    }
    CHECK(slots.made() <= most);
    CHECK(slots.bytes() <= most * 24 + (most + most / 3 + 1) * 8);
  }
}

TEST(slots_stay_where_they_are_while_others_come) {
  ContextSlots slots(2, 5000);
  ContextSlot* first = slots.add(0);
  for (std::uint64_t context = 1; context < 5000; ++context) CHECK(slots.add(context) != nullptr);
  CHECK_EQ(slots.find(0), first);
  CHECK(slots.add(5000) == nullptr);
}

TEST(as_many_fit_as_is_said) {
  for (const std::size_t bytes : {200UL, 1000UL, 65'536UL, 1'000'000UL}) {
    const std::uint32_t most = ContextSlots::fit(kWords, bytes);
    ContextSlots slots(kWords, most);
    for (std::uint64_t context = 0; context < most; ++context) {
      CHECK(slots.add(context) != nullptr);
    }
    CHECK(slots.bytes() <= bytes);
    CHECK(slots.bytes() + 2 * kEach > bytes);
  }
  CHECK_EQ(ContextSlots::fit(kWords, 0), 0u);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
