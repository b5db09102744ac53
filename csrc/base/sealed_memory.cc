#include "base/sealed_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "base/errors.h"

#ifndef F_SEAL_FUTURE_WRITE  // Linux 5.1; C libraries that are older do not name it
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace clipper {
namespace {

[[noreturn]] void fail(const char* what, std::size_t bytes, int error) {
  throw Error(ErrorCode::kOutOfMemory, "cannot share " + std::to_string(bytes) + " bytes for " +
                                           what + " (" + std::generic_category().message(error) +
                                           ")");
}

std::size_t round_up_to_page(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::max<std::size_t>((bytes + page - 1) / page, 1) * page;
}

}  // namespace

SealedMemory::SealedMemory(const char* what, std::size_t bytes, Access others)
    : bytes_(round_up_to_page(bytes)),
      fd_(memfd_create("clipper", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  if (fd_ < 0) fail(what, bytes, errno);
  void* memory = MAP_FAILED;
  // Writing is sealed last, for this mapping must be able to.
  const int last = F_SEAL_SEAL | (others == Access::kReadOnly ? F_SEAL_FUTURE_WRITE : 0);
  if (ftruncate(fd_, static_cast<off_t>(bytes_)) == 0 &&
      fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0) {
    memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_, 0);
  }
  if (memory == MAP_FAILED || fcntl(fd_, F_ADD_SEALS, last) != 0) {
    const int error = errno;
    if (memory != MAP_FAILED) munmap(memory, bytes_);
    close(fd_);
    fail(what, bytes, error);
  }
  data_ = static_cast<std::byte*>(memory);
}

SealedMemory::~SealedMemory() {
  munmap(data_, bytes_);
  close(fd_);
}

void SealedMemory::clear() noexcept { madvise(data_, bytes_, MADV_REMOVE); }

}  // namespace clipper
