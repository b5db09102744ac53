// Names an input row by a keyed hash of its type and bytes.
//
// Two rows of one deployment get the same name only if they are the same, lengths of ragged tensors
// included: what is hashed tells where each tensor ends. The key is derived from the engine's
// secret one, the deployment's number and the row's dtypes and shapes, so that rows of other types
// or other deployments hash to something unrelated. Of n different rows two share a name with a
// probability of n² / 2¹²⁹; nobody who does not know the key can do better.
//
// Thread safety: immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/siphash.h"
#include "base/tensor.h"

namespace clipper {

class RowHasher {
 public:
  RowHasher(const SipKey& secret, std::uint64_t deployment, const RowSpec& spec);

  /// Of row `row` of `source`, given column by column.
  [[nodiscard]] Hash128 operator()(const ColumnRows* source, std::uint32_t row) const noexcept;

 private:
  struct Column {
    std::size_t item_bytes = 0;
    bool ragged = false;
  };

  SipKey key_;
  std::vector<Column> columns_;
};

}  // namespace clipper
