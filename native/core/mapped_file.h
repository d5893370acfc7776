#pragma once
// A few bytes of a mapped file, had without touching the map: around one that is touched a kernel may map two
// megabytes, which count as resident in the process.

#include <cstddef>
#include <cstdint>

namespace shardwise {

class MappedFile {
public:
    /// Keeps a descriptor of its own of the file whose bytes [0, size) are mapped at `data`. Where it cannot,
    /// all is read from the map.
    MappedFile(int descriptor, const void *data, std::size_t size);
    ~MappedFile();
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;

    /// Whether the descriptor still is of that file: a process may close all that it finds, as a daemon does
    /// when it starts, and have another file under the number.
    bool is_open() const;

    /// Copies `size` readable bytes at `from`: by the descriptor if they are in the map, else, or if it does
    /// not give them, from memory.
    void read(const void *from, std::size_t size, void *to) const;

private:
    // Not used where all is read from the map.
    [[maybe_unused]] int descriptor_ = -1;
    [[maybe_unused]] std::uintptr_t begin_;
    [[maybe_unused]] std::size_t size_;
    [[maybe_unused]] std::uint64_t device_ = 0, number_ = 0; // which file it is
};

} // namespace shardwise
