#include "core/mapped_file.h"

#include <cstring>

#include "core/platform.h"

#if SHARDWISE_POSIX
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace shardwise {

#if !SHARDWISE_POSIX

MappedFile::MappedFile(int, const void *data, std::size_t size)
    : begin_(reinterpret_cast<std::uintptr_t>(data)), size_(size) {}

MappedFile::~MappedFile() = default;

bool MappedFile::is_open() const {
    return false;
}

void MappedFile::read(const void *from, std::size_t size, void *to) const {
    std::memcpy(to, from, size);
}

#else

MappedFile::MappedFile(int descriptor, const void *data, std::size_t size)
    : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)), begin_(reinterpret_cast<std::uintptr_t>(data)),
      size_(size) {
    struct stat status;
    if (descriptor_ >= 0 && fstat(descriptor_, &status) == 0) {
        device_ = static_cast<std::uint64_t>(status.st_dev);
        number_ = static_cast<std::uint64_t>(status.st_ino);
    }
}

MappedFile::~MappedFile() {
    if (is_open())
        close(descriptor_);
}

bool MappedFile::is_open() const {
    struct stat status;
    return descriptor_ >= 0 && fstat(descriptor_, &status) == 0 &&
           static_cast<std::uint64_t>(status.st_dev) == device_ &&
           static_cast<std::uint64_t>(status.st_ino) == number_;
}

void MappedFile::read(const void *from, std::size_t size, void *to) const {
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(from) - begin_;
    if (at >= size_ || size > size_ - at ||
        pread(descriptor_, to, size, static_cast<off_t>(at)) != static_cast<ssize_t>(size))
        std::memcpy(to, from, size);
}

#endif

} // namespace shardwise
