#pragma once
// A stable radix sort of unsigned numbers by some of their bits, on all threads.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/threads.h"

namespace shardwise {

/// radix_sort below, with counters of Count: they are to fit the first cache.
template <class Count, class T>
T *radix_sort_counted(T *data, T *spare, std::size_t count, unsigned low, unsigned bits) {
    // A pass over many numbers costs more than the counters of a wider digit.
    const unsigned widest = count < (std::size_t{1} << 14) ? 8 : 12;
    const unsigned passes = std::max(1U, (bits + widest - 1) / widest);
    const unsigned digit = (bits + passes - 1) / passes;
    const std::size_t buckets = std::size_t{1} << digit;
    constexpr std::size_t thread_numbers = std::size_t{1} << 14;
    const std::size_t parts =
        std::clamp(count / thread_numbers, std::size_t{1}, static_cast<std::size_t>(num_threads()));
    std::vector<Count> places(parts * passes * buckets);
    const auto start = [&](std::size_t part) { return count / parts * part + std::min(part, count % parts); };
    const auto each_part = [&](auto &&body) {
        parallel_for(parts, 1, [&](std::size_t from, std::size_t to) {
            for (std::size_t part = from; part < to; ++part)
                body(part);
        });
    };
    const auto bucket_of = [&](T number, unsigned shift) {
        return static_cast<std::size_t>(number >> shift) & (buckets - 1);
    };
    const auto count_digits = [&](std::size_t part, unsigned pass, unsigned shift) {
        Count *const counts = places.data() + (pass * parts + part) * buckets;
        for (std::size_t i = start(part); i < start(part + 1); ++i)
            ++counts[bucket_of(data[i], shift)];
    };
    for (unsigned pass = 0; pass < passes; ++pass, low += digit) {
        if (parts == 1 && pass == 0 &&
            passes == 2) { // both at once: the order in which they come does not matter
            Count *const first = places.data(), *const second = first + buckets;
            for (std::size_t i = 0; i < count; ++i) {
                ++first[bucket_of(data[i], low)];
                ++second[bucket_of(data[i], low + digit)];
            }
        } else if (parts > 1 || passes != 2) {
            each_part([&](std::size_t part) { count_digits(part, pass, low); });
        }
        Count *const own = places.data() + pass * parts * buckets;
        Count next = 0;
        for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
            for (std::size_t part = 0; part < parts; ++part) {
                Count &place = own[part * buckets + bucket];
                const Count found = place;
                place = next;
                next += found;
            }
        }
        each_part([&](std::size_t part) {
            Count *const to = own + part * buckets;
            for (std::size_t i = start(part); i < start(part + 1); ++i)
                spare[to[bucket_of(data[i], low)]++] = data[i];
        });
        std::swap(data, spare);
    }
    return data;
}

/// Sorts `count` numbers by bits [low, low + bits). `spare` has room for as many; returns where the result
/// lies: in `data` or in `spare`. Few numbers are sorted by all their bits from `low` to the last and below
/// them, so lower bits must be in order already or must not matter.
template <class T> T *radix_sort(T *data, T *spare, std::size_t count, unsigned low, unsigned bits) {
    constexpr std::size_t few = 512;
    if (count <= few) {
        std::sort(data, data + count);
        return data;
    }
    if (count <= UINT32_MAX)
        return radix_sort_counted<std::uint32_t>(data, spare, count, low, bits);
    return radix_sort_counted<std::size_t>(data, spare, count, low, bits);
}

} // namespace shardwise
