#include "core/threads.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
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

/// How often each of `count` numbers is visited; ranges must be of `grain` and more, but for the last.
void check_cover(std::size_t count, std::size_t grain) {
    const auto visits = std::make_unique<std::atomic<int>[]>(count + 1);
    std::atomic<std::size_t> calls{0};
    parallel_for(count, grain, [&](std::size_t begin, std::size_t end) {
        CHECK(begin < end && end <= count);
        CHECK(end - begin >= grain || end == count);
        for (std::size_t i = begin; i < end; ++i)
            visits[i].fetch_add(1, std::memory_order_relaxed);
        calls.fetch_add(1, std::memory_order_relaxed);
    });
    for (std::size_t i = 0; i < count; ++i)
        CHECK(visits[i].load() == 1);
    CHECK((count == 0) == (calls.load() == 0));
}

void test_each_once() {
    for (const int threads : {1, 2, 3, 7, 16}) {
        set_num_threads(threads);
        CHECK(num_threads() == threads);
        for (const std::size_t count : {0U, 1U, 2U, 3U, 7U, 8U, 64U, 1000U, 4096U, 100003U})
            for (const std::size_t grain : {0U, 1U, 2U, 7U, 1000U, 200000U})
                check_cover(count, grain);
    }
}

/// Pieces are ranges of their own, begun in their order, by as many threads as there are.
void test_pieces() {
    for (const int threads : {1, 2, 3, 7}) {
        set_num_threads(threads);
        for (const std::size_t count : {0U, 1U, 2U, 29U, 1000U}) {
            const auto visits = std::make_unique<std::atomic<int>[]>(count + 1);
            std::atomic<std::size_t> last{0};
            parallel_each(count, [&](std::size_t begin, std::size_t end) {
                CHECK(end == begin + 1 && end <= count);
                visits[begin].fetch_add(1, std::memory_order_relaxed);
                if (threads == 1)
                    CHECK(last.exchange(end) == begin);
            });
            for (std::size_t i = 0; i < count; ++i)
                CHECK(visits[i].load() == 1);
        }
    }
    set_num_threads(2);
    std::atomic<int> here{0};
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    parallel_each(2, [&](std::size_t, std::size_t) { // each waits for the other
        here.fetch_add(1);
        while (here.load() < 2 && std::chrono::steady_clock::now() < give_up)
            std::this_thread::yield();
    });
    CHECK(here.load() == 2);
}

void test_small_work_stays_here() {
    set_num_threads(8);
    const std::thread::id here = std::this_thread::get_id();
    int calls = 0;
    parallel_for(1999, 1000, [&](std::size_t begin, std::size_t end) {
        CHECK(std::this_thread::get_id() == here && begin == 0 && end == 1999);
        ++calls;
    });
    CHECK(calls == 1);
}

/// As many threads as were asked for do come, and not one more.
void test_threads_take_part() {
    for (const int threads : {2, 5, 2, 1}) {
        set_num_threads(threads);
        std::mutex mutex;
        std::set<std::thread::id> seen;
        std::atomic<int> here{0};
        const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        parallel_for(1000, 1, [&](std::size_t, std::size_t) {
            {
                const std::lock_guard lock(mutex);
                if (seen.insert(std::this_thread::get_id()).second)
                    here.fetch_add(1);
            }
            // Each waits for the others: one thread that did all ranges would wait in vain.
            while (here.load() < threads && std::chrono::steady_clock::now() < give_up)
                std::this_thread::yield();
        });
        CHECK(seen.size() == static_cast<std::size_t>(threads));
    }
}

void test_exceptions() {
    for (const int threads : {1, 2, 4}) {
        set_num_threads(threads);
        for (int round = 0; round < 200; ++round) {
            std::atomic<int> thrown{0};
            bool caught = false;
            try {
                parallel_for(1000, 1, [&](std::size_t begin, std::size_t end) {
                    if (round % 2 == 0 || end > 500) {
                        thrown.fetch_add(1);
                        throw std::runtime_error(std::to_string(begin));
                    }
                });
            } catch (const std::runtime_error &error) {
                caught = true;
                CHECK(std::stoul(error.what()) < 1000);
            }
            CHECK(thrown.load() > 0);
            CHECK(caught);
            check_cover(1000, 10); // the pool is as it was
        }
    }
}

/// A body that meets an error while it handles another one.
void test_nested_exceptions() {
    set_num_threads(4);
    for (int round = 0; round < 100; ++round) {
        bool caught = false;
        try {
            parallel_for(100, 1, [&](std::size_t, std::size_t) {
                try {
                    throw std::invalid_argument("inner");
                } catch (const std::invalid_argument &) {
                    std::throw_with_nested(std::runtime_error("outer"));
                }
            });
        } catch (const std::runtime_error &outer) {
            CHECK(std::string(outer.what()) == "outer");
            try {
                std::rethrow_if_nested(outer);
            } catch (const std::invalid_argument &inner) {
                caught = std::string(inner.what()) == "inner";
            }
        }
        CHECK(caught);
    }
}

void test_many_callers() {
    set_num_threads(3);
    std::vector<std::thread> callers;
    std::atomic<int> done{0};
    for (int caller = 0; caller < 16; ++caller) {
        callers.emplace_back([&, caller] {
            for (int round = 0; round < 60; ++round) {
                if (round % 10 == caller % 10) {
                    CHECK_THROWS(
                        parallel_for(500, 1, [](std::size_t, std::size_t) { throw std::logic_error(""); }),
                        std::logic_error);
                } else {
                    check_cover(500 + static_cast<std::size_t>(caller), 1 + static_cast<std::size_t>(round));
                }
                if (caller == 0)
                    set_num_threads(1 + round % 5);
            }
            done.fetch_add(1);
        });
    }
    for (std::thread &caller : callers)
        caller.join();
    CHECK(done.load() == 16);
}

/// What the threads wrote is there when parallel_for returns.
void test_results_are_visible() {
    set_num_threads(4);
    std::vector<std::uint64_t> values(20000);
    for (std::uint64_t round = 1; round < 100; ++round) {
        parallel_for(values.size(), 100, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i)
                values[i] += round;
        });
        CHECK(std::accumulate(values.begin(), values.end(), std::uint64_t{0}) ==
              values.size() * round * (round + 1) / 2);
    }
}

void test_bad_counts() {
    set_num_threads(2);
    CHECK_THROWS(set_num_threads(0), std::invalid_argument);
    CHECK_THROWS(set_num_threads(-1), std::invalid_argument);
    CHECK_THROWS(set_num_threads(1025), std::invalid_argument);
    CHECK(num_threads() == 2);
    set_num_threads(1024);
    check_cover(5000, 1000);
}

// ThreadSanitizer starts no threads in a child of a process that had some.
#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__)
[[noreturn]] void be_child(int depth) {
    check_cover(5000, 1);
    set_num_threads(3);
    check_cover(5000, 1);
    if (depth > 0) {
        const pid_t grandchild = fork();
        if (grandchild == 0)
            be_child(depth - 1);
        CHECK(ends_well(grandchild));
        check_cover(5000, 1);
    }
    _exit(0);
}

/// A child has none of its parent's threads, and the pool's mutex may be held in it for ever: it needs a pool
/// anew.
void test_fork() {
    set_num_threads(4);
    std::atomic<bool> stop{false};
    std::vector<std::thread> busy;
    for (int k = 0; k < 3; ++k)
        busy.emplace_back([&] {
            while (!stop.load())
                check_cover(300, 1);
        });
    for (int round = 0; round < 30; ++round) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            be_child(round % 10 == 0 ? 1 : 0);
        CHECK(ends_well(child));
        check_cover(1000, 1);
    }
    stop.store(true);
    for (std::thread &thread : busy)
        thread.join();
}
#else
void test_fork() {}
#endif

} // namespace

int main() {
    test_each_once();
    test_pieces();
    test_small_work_stays_here();
    test_threads_take_part();
    test_exceptions();
    test_nested_exceptions();
    test_many_callers();
    test_results_are_visible();
    test_bad_counts();
    test_fork();
    return 0;
}
