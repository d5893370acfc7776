#pragma once
// Memory from the system, in its large pages where it grants them.

#include <cstddef>

namespace shardwise {

/// The size of a large page.
inline constexpr std::size_t huge_page = std::size_t{2} << 20;
/// From here on a block begins on a large page; below, on a small one.
inline constexpr std::size_t large_bytes = huge_page / 2;

/// A block of so many bytes, a multiple of huge_page from large_bytes on, else of 4096; nullptr where there
/// is none. Large blocks of it are untouched.
void *map_block(std::size_t bytes);
void unmap_block(void *block, std::size_t bytes) noexcept;

/// Tells the system that it may take the pages of a block whose contents nobody needs.
void mark_free(void *block, std::size_t bytes) noexcept;

/// Whether the pages of a fresh large block are zeros that were not touched.
extern const bool fresh_blocks_are_zeros;

/// How many of the `bytes` at `data` lie in large pages at present; 0 where the system does not tell.
std::size_t huge_page_bytes(const void *data, std::size_t bytes);

/// How much memory the machine has, 0 where the system does not tell.
std::size_t physical_bytes();

/// The size of a small page.
std::size_t small_page_bytes();

} // namespace shardwise
