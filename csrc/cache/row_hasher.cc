#include "cache/row_hasher.h"

namespace clipper {
namespace {

SipKey derive(const SipKey& secret, std::uint64_t deployment, const RowSpec& spec) {
  SipHash128<2, 4> hash(secret);
  hash.add(deployment);
  for (const TensorSpec& tensor : spec.columns) {
    hash.add(static_cast<std::uint64_t>(tensor.dtype.code));
    hash.add(tensor.dtype.bits);
    hash.add(tensor.ragged ? 1 : 0);
    hash.add(tensor.shape.size());
    for (const std::int64_t extent : tensor.shape) hash.add(static_cast<std::uint64_t>(extent));
  }
  const Hash128 derived = hash.finish();
  return {derived.low, derived.high};
}

}  // namespace

RowHasher::RowHasher(const SipKey& secret, std::uint64_t deployment, const RowSpec& spec)
    : key_(derive(secret, deployment, spec)) {
  for (const TensorSpec& tensor : spec.columns) {
    columns_.push_back({tensor.item_bytes(), tensor.ragged});
  }
}

Hash128 RowHasher::operator()(const ColumnRows* source, std::uint32_t row) const noexcept {
  SipHash128<1, 3> hash(key_);
  for (const Column& column : columns_) {
    const ColumnRows& from = *source++;
    if (column.ragged) {
      const auto begin = static_cast<std::size_t>(from.begin_of(row));
      const auto items = static_cast<std::size_t>(from.begin_of(row + 1)) - begin;
      hash.add(items);
      hash.add(from.data + begin * column.item_bytes, items * column.item_bytes);
    } else {
      hash.add(from.data + row * column.item_bytes, column.item_bytes);
    }
  }
  return hash.finish();
}

}  // namespace clipper
