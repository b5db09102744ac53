// Whether bytes are text: UTF-8 as Unicode defines it, so neither overlong forms nor surrogates.
//
// Thread safety: stateless.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clipper {

/// How many bytes the first character takes; 0: it is none. Source: Unicode Standard, table 3-7.
[[nodiscard]] inline std::size_t utf8_character(const std::uint8_t* at, std::size_t left) noexcept {
  const std::uint8_t lead = at[0];
  if (lead < 0x80) return 1;
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || left < bytes) return 0;
  const std::uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const std::uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (at[1] < least || at[1] > most) return 0;
  for (std::size_t i = 2; i < bytes; ++i) {
    if ((at[i] & 0xc0) != 0x80) return 0;
  }
  return bytes;
}

[[nodiscard]] inline bool is_utf8(const std::byte* data, std::size_t bytes) noexcept {
  const auto* at = reinterpret_cast<const std::uint8_t*>(data);
  while (bytes > 0) {
    const std::size_t character = utf8_character(at, bytes);
    if (character == 0) return false;
    at += character;
    bytes -= character;
  }
  return true;
}

}  // namespace clipper
