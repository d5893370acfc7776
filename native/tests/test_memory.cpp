#include "core/memory.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "check.h"
#include "children.h"

using namespace shardwise;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t bound = 24 * mib; // what main() asks for

std::uintptr_t address(const Block &block) {
    return reinterpret_cast<std::uintptr_t>(block.data);
}

void touch(const Block &block, int value) {
    auto *const bytes = static_cast<unsigned char *>(block.data);
    for (std::size_t at = 0; at < block.bytes; at += 4096)
        bytes[at] = static_cast<unsigned char>(value);
    bytes[block.bytes - 1] = static_cast<unsigned char>(value);
}

void test_alignment() {
    for (const std::size_t bytes :
         {std::size_t{0}, std::size_t{1}, std::size_t{4095}, std::size_t{4096}, 100 * std::size_t{1000},
          mib - 1, mib, mib + 1, 2 * mib - 1, 2 * mib, 2 * mib + 1, 3 * mib, 11 * mib + 5, 40 * mib}) {
        const Block block = acquire_block(bytes);
        CHECK(block.data != nullptr);
        CHECK(block.bytes >= bytes && block.bytes > 0);
        CHECK(address(block) % 4096 == 0);
        if (bytes >= huge_page / 2) {
            CHECK(address(block) % huge_page == 0);
            CHECK(block.bytes % huge_page == 0);
        }
        CHECK(block.bytes <= std::max<std::size_t>(bytes + huge_page, 2 * huge_page));
        touch(block, 1);
        CHECK(huge_page_bytes(block.data, block.bytes) <= block.bytes);
        release_block(block);
    }
    empty_cache();
}

void test_recycled() {
    for (const std::size_t bytes : {std::size_t{50000}, 3 * mib}) {
        const Block first = acquire_block(bytes);
        CHECK(first.fresh);
        touch(first, 7);
        CHECK(cached_bytes() == 0);
        release_block(first);
        CHECK(cached_bytes() == first.bytes);
        const Block second = acquire_block(bytes - 100);
        CHECK(second.data == first.data && second.bytes == first.bytes && !second.fresh);
        CHECK(cached_bytes() == 0);
        const Block third = acquire_block(bytes);
        CHECK(third.data != second.data && third.fresh);
        touch(second, 8);
        touch(third, 9);
        release_block(second);
        release_block(third);
        CHECK(acquire_block(bytes).data == third.data); // the latest is the warmest
        CHECK(acquire_block(bytes).data == second.data);
        release_block(second);
        release_block(third);
        CHECK(empty_cache() == second.bytes + third.bytes);
        CHECK(cached_bytes() == 0 && empty_cache() == 0);
    }
}

/// A block that is more than twice too large is left for who needs it, and one that is too small is not
/// taken.
void test_blocks_fit() {
    const Block large = acquire_block(20 * mib);
    release_block(large);
    const Block small = acquire_block(4 * mib);
    CHECK(small.fresh && small.bytes < 5 * mib);
    const Block larger = acquire_block(22 * mib);
    CHECK(larger.fresh && larger.bytes >= 22 * mib);
    const Block half = acquire_block(11 * mib);
    CHECK(half.data == large.data);
    for (const Block &block : {small, larger, half})
        release_block(block);
    empty_cache();
}

void test_bound() {
    CHECK(cache_bound() == bound);
    std::vector<Block> blocks;
    for (int k = 0; k < 20; ++k)
        blocks.push_back(acquire_block(2 * mib));
    for (const Block &block : blocks) {
        release_block(block);
        CHECK(cached_bytes() <= bound);
    }
    CHECK(cached_bytes() == bound);
    // The oldest went: the last 12 of 20 are kept.
    for (int k = 19; k >= 8; --k)
        CHECK(acquire_block(2 * mib).data == blocks[static_cast<std::size_t>(k)].data);
    CHECK(cached_bytes() == 0);
    for (std::size_t k = 8; k < 20; ++k)
        release_block(blocks[k]);
    // One that alone is larger than the bound is not kept, and drives out nothing.
    release_block(acquire_block(bound + 1));
    CHECK(cached_bytes() == bound);
    empty_cache();
    // However small they are, there are few: each search looks at all.
    blocks.clear();
    for (int k = 0; k < 1000; ++k)
        blocks.push_back(acquire_block(1));
    const std::size_t each = blocks[0].bytes;
    for (const Block &block : blocks)
        release_block(block);
    CHECK(cached_bytes() <= 64 * each && cached_bytes() >= each);
    empty_cache();
}

void test_impossible() {
    CHECK_THROWS(acquire_block(SIZE_MAX), std::bad_alloc);
    CHECK_THROWS(acquire_block(SIZE_MAX / 2), std::bad_alloc);
    CHECK_THROWS(acquire_block(SIZE_MAX / 2 + 1), std::bad_alloc);
    CHECK_THROWS(acquire_block(SIZE_MAX - huge_page), std::bad_alloc);
    CHECK_THROWS(acquire_block(std::size_t{1} << 62), std::bad_alloc);
}

/// No two owners of one byte: each marks its block, and finds its marks again.
void work_with_blocks(unsigned seed, int rounds) {
    std::mt19937 random(seed);
    struct Held {
        Block block;
        int mark;
    };
    std::vector<Held> held;
    for (int round = 0; round < rounds; ++round) {
        if (held.size() < 6 && random() % 3 != 0) {
            const std::size_t bytes =
                random() % 2 == 0 ? 1 + random() % (64 * 1024) : mib + random() % (3 * mib);
            const Held fresh{acquire_block(bytes), static_cast<int>(random() % 256)};
            touch(fresh.block, fresh.mark);
            held.push_back(fresh);
        } else if (!held.empty()) {
            std::swap(held.back(), held[random() % held.size()]);
            const Held last = held.back();
            held.pop_back();
            const auto *const bytes = static_cast<const unsigned char *>(last.block.data);
            for (std::size_t at = 0; at < last.block.bytes; at += 4096)
                CHECK(bytes[at] == last.mark);
            CHECK(bytes[last.block.bytes - 1] == last.mark);
            release_block(last.block);
        }
        if (random() % 50 == 0)
            empty_cache();
        CHECK(cached_bytes() <= bound);
    }
    for (const Held &last : held)
        release_block(last.block);
}

void test_many_threads() {
    std::vector<std::thread> threads;
    for (unsigned k = 0; k < 8; ++k)
        threads.emplace_back(work_with_blocks, k, 300);
    for (std::thread &thread : threads)
        thread.join();
    empty_cache();
    CHECK(cached_bytes() == 0);
}

// ThreadSanitizer is not made for the children of a process with threads.
#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__)
/// A child may fork off while another thread holds the cache's mutex.
void test_fork() {
    const Block kept = acquire_block(3 * mib);
    touch(kept, 42);
    std::atomic<bool> stop{false};
    std::vector<std::thread> busy;
    for (unsigned k = 0; k < 2; ++k) {
        busy.emplace_back([&stop] {
            while (!stop.load())
                release_block(acquire_block(1)); // as often as can be: the mutex is nearly always held
        });
    }
    for (unsigned round = 0; round < 40; ++round) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            work_with_blocks(round, 20);
            CHECK(*static_cast<const unsigned char *>(kept.data) == 42);
            touch(kept, 43); // its own copy
            release_block(kept);
            empty_cache();
            _exit(0);
        }
        CHECK(ends_well(child));
        CHECK(*static_cast<const unsigned char *>(kept.data) == 42);
    }
    stop.store(true);
    for (std::thread &thread : busy)
        thread.join();
    release_block(kept);
    empty_cache();
}

/// What the cache says of an environment variable, in a process that has not made one yet.
bool refuses(const char *bytes) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        setenv("SHARDWISE_CACHE_BYTES", bytes, 1);
        try {
            _exit(cache_bound() == 0 ? 2 : 3);
        } catch (const std::invalid_argument &error) {
            _exit(std::strstr(error.what(), bytes) != nullptr ? 0 : 1);
        }
    }
    return ends_well(child);
}

void test_environment() {
    for (const char *bad : {"x", "-1", "1e9", "12 ", " 12", "0x10", "+5", "99999999999999999999999"})
        CHECK(refuses(bad));
    CHECK(!refuses("0"));
    CHECK(!refuses("18446744073709551615"));
    CHECK(!refuses(""));
}
#else
void test_fork() {}
void test_environment() {}
#endif

} // namespace

int main() {
    test_environment(); // first, while there is no cache
#if !defined(_WIN32)
    setenv("SHARDWISE_CACHE_BYTES", std::to_string(bound).c_str(), 1);
#endif
    test_alignment();
    test_recycled();
    test_blocks_fit();
    test_bound();
    test_impossible();
    test_many_threads();
    test_fork();
    return 0;
}
