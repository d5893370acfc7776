// The fastest that this memory gives rows: each 256-byte row is prefetched some ids ahead, then copied to one
// of 64 slots that stay in the first-level cache. No result is written to memory, so no lookup can be faster.

#include <cstddef>
#include <cstdint>

namespace {

constexpr std::size_t row_bytes = 256;
constexpr std::size_t slots = 64;

// Part of a row. Aligned as a float is; spelled out below, since `auto` would forget that.
typedef float Part __attribute__((vector_size(32), aligned(4), may_alias));

// Locality 3 is the T0 hint (all cache levels), 2 is T1 (second level and up).
template <int locality>
void read(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead, char *buffer) {
    const bool on_lines = reinterpret_cast<std::uintptr_t>(table) % 64 == 0;
    for (std::size_t i = 0; i < count; ++i) {
        const char *const later = table + ids[i + ahead < count ? i + ahead : count - 1] * row_bytes;
        for (std::size_t at = 0; at < row_bytes; at += 64)
            __builtin_prefetch(later + at, 0, locality);
        if (!on_lines)
            __builtin_prefetch(later + row_bytes - 1, 0, locality);
        const Part *const from = reinterpret_cast<const Part *>(table + ids[i] * row_bytes);
        Part *const to = reinterpret_cast<Part *>(buffer + i % slots * row_bytes);
        for (std::size_t k = 0; k < row_bytes / sizeof(Part); ++k)
            to[k] = from[k];
    }
}

} // namespace

extern "C" void read_rows(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead,
                          int locality, char *buffer) {
    if (locality == 3)
        read<3>(table, ids, count, ahead, buffer);
    if (locality == 2)
        read<2>(table, ids, count, ahead, buffer);
}
