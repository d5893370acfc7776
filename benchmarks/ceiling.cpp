// What this machine can do at most.
//
// The fastest that this memory gives rows: each row is prefetched some ids ahead, then copied to one of 64
// slots that stay in the caches. No result is written to memory, so no lookup can be faster.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr std::size_t slots = 64;

// Locality 3 is the T0 hint (all cache levels), 2 is T1 (second level and up). Bytes: of a row; 0 where only
// the last argument says it.
template <int locality, std::size_t bytes>
void read(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead, char *buffer,
          std::size_t any) {
    const std::size_t row_bytes = bytes == 0 ? any : bytes;
    for (std::size_t i = 0; i < count; ++i) {
        const char *const later =
            table + static_cast<std::size_t>(ids[i + ahead < count ? i + ahead : count - 1]) * row_bytes;
        const char *line = later - reinterpret_cast<std::uintptr_t>(later) % 64;
        for (; line < later + row_bytes; line += 64)
            __builtin_prefetch(line, 0, locality);
        std::memcpy(buffer + i % slots * row_bytes, table + static_cast<std::size_t>(ids[i]) * row_bytes,
                    row_bytes);
    }
}

template <int locality>
void choose(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead, char *buffer,
            std::size_t row_bytes) {
    switch (row_bytes) {
    case 256:
        return read<locality, 256>(table, ids, count, ahead, buffer, row_bytes);
    case 128:
        return read<locality, 128>(table, ids, count, ahead, buffer, row_bytes);
    case 72:
        return read<locality, 72>(table, ids, count, ahead, buffer, row_bytes);
    case 36:
        return read<locality, 36>(table, ids, count, ahead, buffer, row_bytes);
    default:
        return read<locality, 0>(table, ids, count, ahead, buffer, row_bytes);
    }
}

} // namespace

extern "C" void read_rows(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead,
                          int locality, char *buffer, std::size_t row_bytes) {
    if (locality == 3)
        choose<3>(table, ids, count, ahead, buffer, row_bytes);
    if (locality == 2)
        choose<2>(table, ids, count, ahead, buffer, row_bytes);
}

// Multiplications and additions, fused: 16 sums of 16 lanes, enough to hide how long each takes. Returns what
// nobody needs, so that all are done.
extern "C" float multiply_add(std::size_t rounds, const float *factors) {
    constexpr int sums = 16, lanes = 16;
    typedef float Vec __attribute__((vector_size(lanes * sizeof(float))));
    Vec a, b, sum[sums];
    std::memcpy(&a, factors, sizeof a);
    std::memcpy(&b, factors + lanes, sizeof b);
    for (int i = 0; i < sums; ++i) // not alike: else the compiler does one for all
        sum[i] = a * static_cast<float>(i);
    for (std::size_t i = 0; i < rounds; ++i)
        for (Vec &one : sum)
            one = one * a + b;
    Vec all = sum[0];
    for (const Vec &one : sum)
        all += one;
    float total = 0;
    for (int i = 0; i < lanes; ++i)
        total += all[i];
    return total;
}
