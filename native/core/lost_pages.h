#pragma once
// Pages of mapped files that cannot be had: the file was cut short under its map, its disk failed, or (in a
// file system in memory) there is no room for a page that was a hole. The system sends SIGBUS to the thread
// that touches such a page, which ends the process. While a kernel works on a table that is watched, zeros
// take the place of what is lost, and the kernel's caller says that the result is none.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace shardwise {

/// The bytes of a mapped table, each piece with the first of its bytes that was found lost.
class Maps {
public:
    /// Takes [begin, end) into the table; not while it is watched.
    void add(const void *begin, std::size_t bytes);

    static constexpr std::size_t none = SIZE_MAX;
    /// Which piece was found to have lost pages, the first of them; `none` where all are well. It stays so:
    /// who opens the file again gets what is there.
    std::size_t lost() const;

private:
    friend class Watched;
    struct Piece {
        std::uintptr_t begin, end;
        std::atomic<std::uintptr_t> lost_from{UINTPTR_MAX};
        Piece(std::uintptr_t from, std::uintptr_t to) : begin(from), end(to) {}
    };
    std::vector<std::unique_ptr<Piece>> pieces_;
    std::atomic<bool> is_lost_{false};
};

/// Watches the maps of a table for as long as it lives, on this thread and on those that parallel_for takes
/// for it. Afterwards `maps.lost()` says whether what was read can be believed.
class Watched {
public:
    explicit Watched(Maps &maps);
    ~Watched();
    Watched(const Watched &) = delete;
    Watched &operator=(const Watched &) = delete;

    /// What this thread watches; to be handed to a thread that works for it.
    static Watched *current();
    static void set_current(Watched *watched);

private:
    Maps &maps_;
    Watched *const outer_;
    static bool replace(Watched *innermost, std::uintptr_t address);
    friend struct Handler;
};

} // namespace shardwise
