// Why a query was not answered by its models, and the exception for misuse of the core.
//
// The hot path returns small enums and never throws; set-up and misuse throw Error, which the
// Cython boundary turns into the matching Python exception.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace clipper {

/// Why a row has no output of its own. The numbers are part of the wire protocol: never renumber.
enum class Cause : std::uint8_t {
  kNone = 0,           ///< answered
  kDeadline = 1,       ///< its time ran out, in the queue or while the model ran
  kOverload = 2,       ///< refused: the queue is full, or its deadline cannot be met any more
  kCrash = 3,          ///< the replica that ran it died
  kModelError = 4,     ///< the model raised, or returned something else than it declared
  kNoReplica = 5,      ///< nothing is deployed that could run it
  kLowConfidence = 6,  ///< below the application's threshold
  kCancelled = 7,      ///< withdrawn by its caller, or the engine closed
};

inline constexpr std::size_t kCauses = 8;

enum class ErrorCode : std::uint8_t {
  kInvalidArgument,
  kClosed,
  kForked,
  kNotFound,
  kAlreadyExists,
  kOutOfMemory,
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace clipper
