// Tells a process from the one it was forked from: what was made before the fork is recognised
// after it.
//
// Thread safety: all of it.
#pragma once

namespace clipper {

/// How many forks led from the first call, in an ancestor, to this process.
[[nodiscard]] int fork_epoch() noexcept;

}  // namespace clipper
