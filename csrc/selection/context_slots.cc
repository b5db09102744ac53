#include "selection/context_slots.h"

#include <algorithm>
#include <bit>
#include <new>

#include "base/hash.h"

namespace clipper {
namespace {

std::uint32_t tag_of(std::uint64_t context) noexcept {
  return static_cast<std::uint32_t>(mix_bits(context));
}

}  // namespace

std::uint32_t ContextSlots::fit(std::size_t words, std::size_t bytes) noexcept {
  const std::size_t each = sizeof(ContextSlot) + words * sizeof(double);
  // places_for(n) places, of which n / 3 + 1 are too many for n.
  const std::size_t spare = sizeof(Place);
  const std::size_t contexts = bytes < spare ? 0 : 3 * (bytes - spare) / (3 * each + 4 * spare);
  return static_cast<std::uint32_t>(std::min<std::size_t>(contexts, std::size_t{1} << 31));
}

std::size_t ContextSlots::place_of(std::uint64_t context) noexcept {
  const std::uint32_t tag = tag_of(context);
  for (std::size_t place = home(tag);; place = after(place)) {
    const Place& here = index_[place];
    if (here.slot == 0) return index_.size();
    if (here.tag == tag && at(here.slot - 1).context == context) return place;
  }
}

ContextSlot* ContextSlots::find(std::uint64_t context) noexcept {
  if (size_ == 0) return nullptr;
  const std::size_t place = place_of(context);
  return place == index_.size() ? nullptr : &at(index_[place].slot - 1);
}

ContextSlot& ContextSlots::at(std::uint32_t number) noexcept {
  // Chunk k begins at slot kFirstChunk * (2^k - 1).
  const std::uint32_t scaled = number / kFirstChunk + 1;
  const auto chunk = static_cast<std::uint32_t>(std::bit_width(scaled)) - 1;
  const std::size_t within = number - kFirstChunk * ((std::size_t{1} << chunk) - 1);
  return *std::launder(
      reinterpret_cast<ContextSlot*>(chunks_[chunk].get() + within * slot_bytes()));
}

ContextSlot* ContextSlots::add(std::uint64_t context) {
  if (size_ == most_) return nullptr;
  if (places_for(size_ + 1) > index_.size()) grow_index();
  const std::uint32_t number = take_slot();
  ContextSlot& slot = at(number);
  slot.context = context;
  slot.pins.store(0, std::memory_order_relaxed);
  slot.used = true;
  slot.referenced = slot.changed = false;
  enter(tag_of(context), number + 1);
  ++size_;
  return &slot;
}

std::uint32_t ContextSlots::take_slot() {
  if (free_ != kNone) {
    const std::uint32_t number = free_;
    free_ = static_cast<std::uint32_t>(at(number).context);
    return number;
  }
  if (made_ == room_) {
    const std::uint32_t slots = std::min(room_ + kFirstChunk, most_ - room_);
    chunks_.push_back(std::make_unique_for_overwrite<std::byte[]>(slots * slot_bytes()));
    room_ += slots;
    bytes_ += slots * slot_bytes();
  }
  const std::uint32_t number = made_++;
  ContextSlot& slot = at(number);
  std::construct_at(&slot);
  std::uninitialized_value_construct_n(slot.numbers(), words_);
  return number;
}

void ContextSlots::enter(std::uint32_t tag, std::uint32_t slot) noexcept {
  std::size_t place = home(tag);
  while (index_[place].slot != 0) place = after(place);
  index_[place] = {tag, slot};
}

void ContextSlots::grow_index() {
  const std::size_t wanted = std::max<std::size_t>(16, 2 * index_.size());
  std::vector<Place> before(std::min(wanted, places_for(most_)));
  before.swap(index_);
  bytes_ += (index_.size() - before.size()) * sizeof(Place);
  for (const Place& place : before) {
    if (place.slot != 0) enter(place.tag, place.slot);
  }
}

void ContextSlots::remove(std::uint64_t context) noexcept {
  std::size_t hole = place_of(context);
  const std::uint32_t number = index_[hole].slot - 1;
  // Whoever comes behind and belongs before the hole, or into it, moves up: no tombs are left.
  for (std::size_t place = after(hole); index_[place].slot != 0; place = after(place)) {
    const std::size_t from_home = (place + index_.size() - home(index_[place].tag)) % index_.size();
    const std::size_t from_hole = (place + index_.size() - hole) % index_.size();
    if (from_home < from_hole) continue;
    index_[hole] = index_[place];
    hole = place;
  }
  index_[hole] = {};
  ContextSlot& slot = at(number);
  slot.used = false;
  slot.context = free_;
  free_ = number;
  --size_;
}

}  // namespace clipper
