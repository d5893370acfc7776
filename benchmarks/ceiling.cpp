// What this machine can do at most.
//
// The fastest that this memory gives rows: each is prefetched some ids ahead, then read once, and nothing is
// written to memory, so no lookup can be faster. All words that are read are added up, for the reader is to
// be checked, and a compiler leaves out what nobody needs.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr std::size_t line = 64;
typedef std::uint32_t Words __attribute__((vector_size(line)));

// Locality 3 is the T0 hint (all cache levels), 2 is T1 (second level and up). Lines: whole ones of a row; 0
// where only the last argument says it. What is left of a row is read by its last four bytes.
template <int locality, std::size_t lines>
void read(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead, Words *result,
          std::size_t row_bytes) {
    const bool in_one_more = (reinterpret_cast<std::uintptr_t>(table) | row_bytes) % line != 0;
    const std::size_t whole = lines == 0 ? row_bytes / line : lines;
    Words sums[lines == 0 ? 1 : lines] = {};
    std::uint32_t rest = 0;
    const auto ask = [&](std::size_t i) __attribute__((always_inline)) {
        const char *const row = table + static_cast<std::size_t>(ids[i]) * row_bytes;
        for (std::size_t k = 0; k < whole; ++k)
            __builtin_prefetch(row + k * line, 0, locality);
        if (in_one_more)
            __builtin_prefetch(row + row_bytes - 1, 0, locality);
    };
    const auto take = [&](std::size_t i) __attribute__((always_inline)) {
        const char *const row = table + static_cast<std::size_t>(ids[i]) * row_bytes;
        for (std::size_t k = 0; k < whole; ++k) {
            Words words;
            std::memcpy(&words, row + k * line, line);
            sums[lines == 0 ? 0 : k] += words;
        }
        if (row_bytes % line != 0) {
            std::uint32_t word;
            std::memcpy(&word, row + row_bytes - sizeof word, sizeof word);
            rest += word;
        }
    };
    std::size_t i = 0;
    for (; i < ahead && i < count; ++i)
        ask(i);
    for (i = 0; i + ahead < count; ++i) {
        ask(i + ahead);
        take(i);
    }
    for (; i < count; ++i)
        take(i);
    Words all = {rest};
    for (const Words &sum : sums)
        all += sum;
    std::memcpy(result, &all, sizeof all);
}

template <int locality>
void choose(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead, Words *result,
            std::size_t row_bytes) {
    switch (row_bytes / line) {
    case 1:
        return read<locality, 1>(table, ids, count, ahead, result, row_bytes);
    case 2:
        return read<locality, 2>(table, ids, count, ahead, result, row_bytes);
    case 4:
        return read<locality, 4>(table, ids, count, ahead, result, row_bytes);
    case 8:
        return read<locality, 8>(table, ids, count, ahead, result, row_bytes);
    default:
        return read<locality, 0>(table, ids, count, ahead, result, row_bytes);
    }
}

} // namespace

extern "C" void read_rows(const char *table, const std::int64_t *ids, std::size_t count, std::size_t ahead,
                          int locality, void *result, std::size_t row_bytes) {
    if (locality == 3)
        choose<3>(table, ids, count, ahead, static_cast<Words *>(result), row_bytes);
    if (locality == 2)
        choose<2>(table, ids, count, ahead, static_cast<Words *>(result), row_bytes);
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
