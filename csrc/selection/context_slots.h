// The states of many contexts, packed: slots of one size in chunks, found through an
// open-addressing index of eight bytes a place.
//
// Thread safety: none but `pins`, which anybody may lower; a lock of whoever owns it guards the
// rest.
// Invariant: a slot stays where it is while it is used.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "selection/policy.h"

namespace clipper {

/// One context's state: this, and the numbers behind it.
struct ContextSlot {
  std::uint64_t context = 0;        // of an unused slot: the number of the next unused one
  std::atomic<std::uint32_t> pins;  // queries that hold the state now
  bool used = false;
  bool referenced = false;  // since the hand of the clock came by
  bool changed = false;     // since it was saved, if ever

  [[nodiscard]] std::atomic<double>* numbers() noexcept {
    return reinterpret_cast<std::atomic<double>*>(this + 1);
  }
};
static_assert(sizeof(ContextSlot) == 16, "each context pays for its slot");

class ContextSlots {
 public:
  /// Room for up to `most` contexts of `words` numbers each, which is taken as they come.
  /// REQUIRES: 1 <= most <= 2^31.
  ContextSlots(std::size_t words, std::uint32_t most) : words_(words), most_(most) {}

  /// How many contexts fit into so many bytes.
  [[nodiscard]] static std::uint32_t fit(std::size_t words, std::size_t bytes) noexcept;

  /// nullptr: it is not there.
  [[nodiscard]] ContextSlot* find(std::uint64_t context) noexcept;
  /// A slot for a context that is not there, unpinned, its numbers undefined; nullptr: all are
  /// used. Throws std::bad_alloc.
  [[nodiscard]] ContextSlot* add(std::uint64_t context);
  /// Frees the slot of a context that is there.
  void remove(std::uint64_t context) noexcept;

  /// The slots that were ever used have the numbers below this.
  [[nodiscard]] std::uint32_t made() const noexcept { return made_; }
  /// REQUIRES: number < made().
  [[nodiscard]] ContextSlot& at(std::uint32_t number) noexcept;
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
  /// All that it has allocated.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  [[nodiscard]] PolicyState state(ContextSlot& slot) const noexcept {
    return {slot.numbers(), words_};
  }

 private:
  struct Place {
    std::uint32_t tag = 0;   // 32 bits of the context's hash: where it belongs
    std::uint32_t slot = 0;  // its slot's number + 1; 0: nobody
  };
  static constexpr std::uint32_t kNone = 0xffffffff;
  static constexpr std::uint32_t kFirstChunk = 8;  // slots; each further chunk has twice as many

  [[nodiscard]] std::size_t slot_bytes() const noexcept {
    return sizeof(ContextSlot) + words_ * sizeof(double);
  }
  [[nodiscard]] static std::size_t places_for(std::size_t contexts) noexcept {
    return contexts + contexts / 3 + 1;  // three quarters full at most
  }
  [[nodiscard]] std::size_t home(std::uint32_t tag) const noexcept {
    return static_cast<std::size_t>((std::uint64_t{tag} * index_.size()) >> 32);
  }
  [[nodiscard]] std::size_t after(std::size_t place) const noexcept {
    return place + 1 == index_.size() ? 0 : place + 1;
  }
  [[nodiscard]] std::size_t place_of(std::uint64_t context) noexcept;
  void enter(std::uint32_t tag, std::uint32_t slot) noexcept;
  void grow_index();
  [[nodiscard]] std::uint32_t take_slot();

  const std::size_t words_;
  const std::uint32_t most_;
  std::vector<Place> index_;
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::uint32_t room_ = 0;  // slots in the chunks
  std::uint32_t made_ = 0;
  std::uint32_t size_ = 0;
  std::uint32_t free_ = kNone;
  std::size_t bytes_ = 0;
};

}  // namespace clipper
