// Memory that other processes may map: a memfd of a size that is sealed, so no mapping can be cut
// short under anybody's hands, and mapped here once.
//
// Thread safety: immutable; what lies in the memory is its users' business.
#pragma once

#include <cstddef>

namespace clipper {

enum class Access {
  kReadOnly,  ///< nobody but this mapping can write it, whoever gets the descriptor
  kShared,    ///< whoever gets the descriptor can write it
};

class SealedMemory {
 public:
  /// Pages are taken when they are first written. Throws kOutOfMemory; `what` names it there.
  SealedMemory(const char* what, std::size_t bytes, Access others);
  ~SealedMemory();
  SealedMemory(const SealedMemory&) = delete;
  SealedMemory& operator=(const SealedMemory&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// To pass on over a Unix socket; closed on exec.
  [[nodiscard]] int fd() const noexcept { return fd_; }

  /// Gives the pages back; what was there reads as zeros from then on.
  void clear() noexcept;

 private:
  std::size_t bytes_ = 0;
  std::byte* data_ = nullptr;
  int fd_ = -1;
};

}  // namespace clipper
