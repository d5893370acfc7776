#include "core/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "core/at_fork.h"
#include "core/lost_pages.h"

namespace shardwise {
namespace {

constexpr int max_threads = 1024;

int initial_threads() {
    const char *text = std::getenv("SHARDWISE_NUM_THREADS");
    if (text == nullptr || *text == '\0')
        return std::min(usable_cpus(), max_threads);
    char *end = nullptr;
    const long count = std::strtol(text, &end, 10);
    if (*end != '\0' || count < 1 || count > max_threads)
        throw std::invalid_argument("SHARDWISE_NUM_THREADS must be a whole number from 1 to 1024, got \"" +
                                    std::string(text) + "\"");
    return static_cast<int>(count);
}

std::atomic<int> &thread_count() {
    static std::atomic<int> count{initial_threads()};
    return count;
}

struct Job {
    Job(RangeBody body_, std::size_t count_, std::size_t chunk_, int helpers_)
        : body(body_), count(count_), chunk(chunk_), helpers_wanted(helpers_) {}

    const RangeBody body;
    const std::size_t count;
    const std::size_t chunk;
    Watched *const watched = Watched::current(); // its maps are touched by all that work for it
    std::atomic<std::size_t> next{0};
    // Guarded by the pool's mutex; `helpers_running` is read without it, too.
    int helpers_wanted;
    std::atomic<int> helpers_running{0};
    std::exception_ptr error;

    /// Takes chunks until none is left; what a body threw.
    std::exception_ptr work() noexcept {
        Watched::set_current(watched);
        try {
            for (;;) {
                const std::size_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
                if (begin >= count)
                    return nullptr;
                body(begin, std::min(begin + chunk, count));
            }
        } catch (...) {
            next.store(count, std::memory_order_relaxed); // the others need not go on
            return std::current_exception();
        }
    }
};

constexpr int patience = 4000; // of 10 to 20 ns each

/// Leaves what two threads of a core share to the other one.
void rest() {
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__GNUC__) && defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    void run(Job &job) {
        {
            std::lock_guard lock(mutex_);
            // Where there are no more threads to have, those there are do the work.
            while (num_workers_ < job.helpers_wanted && start_thread([this] { serve(); }))
                ++num_workers_;
            jobs_.push_back(&job);
        }
        wake_.notify_all();
        const std::exception_ptr error = job.work();
        std::unique_lock lock(mutex_);
        if (const auto it = std::find(jobs_.begin(), jobs_.end(), &job); it != jobs_.end())
            jobs_.erase(it);
        // Helpers are at their last pieces. To sleep and be woken takes some 50 us here, as long as these
        // may.
        lock.unlock();
        for (int k = 0; k < patience && job.helpers_running.load(std::memory_order_relaxed) > 0; ++k)
            rest();
        lock.lock();
        done_.wait(lock, [&] { return job.helpers_running == 0; });
        if (error)
            std::rethrow_exception(error);
        if (job.error)
            std::rethrow_exception(job.error);
    }

private:
    [[noreturn]] void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return !jobs_.empty(); });
            Job &job = *jobs_.front();
            ++job.helpers_running;
            if (--job.helpers_wanted == 0)
                jobs_.pop_front();
            lock.unlock();
            const std::exception_ptr error = job.work();
            lock.lock();
            // Nothing is left to take: no further worker should come for it.
            if (const auto it = std::find(jobs_.begin(), jobs_.end(), &job); it != jobs_.end())
                jobs_.erase(it);
            if (error && !job.error)
                job.error = error;
            if (--job.helpers_running == 0)
                done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    std::deque<Job *> jobs_;
    int num_workers_ = 0;
};

/// Jobs that nobody waits for, one after the other.
class Background {
public:
    bool add(std::function<void()> job, std::size_t cost, std::size_t bound) {
        {
            std::lock_guard lock(mutex_);
            if (cost > bound || waiting_ > bound - cost)
                return false;
            if (!started_ && !start_thread([this] { serve(); }))
                return false;
            started_ = true;
            jobs_.push_back({std::move(job), cost});
            waiting_ += cost;
        }
        wake_.notify_one();
        return true;
    }

private:
    struct Waiting {
        std::function<void()> job;
        std::size_t cost;
    };

    [[noreturn]] void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return !jobs_.empty(); });
            const Waiting next = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            next.job();
            lock.lock();
            waiting_ -= next.cost;
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Waiting> jobs_;
    std::size_t waiting_ = 0;
    bool started_ = false;
};

// Never destroyed: its threads sleep until the process ends. Replaced, not repaired, in a child after fork,
// where the threads are gone and the mutex may be held by one of them.
std::atomic<Pool *> current_pool{nullptr};
std::atomic<Background *> current_background{nullptr};

// When the library is loaded: at first use, another thread could fork in the middle of it.
[[maybe_unused]] const bool registered = [] {
    at_fork(nullptr, nullptr, [] {
        current_pool.store(nullptr);
        current_background.store(nullptr);
    });
    return true;
}();

template <class T> T &current(std::atomic<T *> &place) {
    T *existing = place.load(std::memory_order_acquire);
    if (existing != nullptr)
        return *existing;
    auto fresh = std::make_unique<T>();
    if (place.compare_exchange_strong(existing, fresh.get()))
        return *fresh.release();
    return *existing;
}

} // namespace

int num_threads() {
    return thread_count().load(std::memory_order_relaxed);
}

void set_num_threads(int count) {
    if (count < 1 || count > max_threads)
        throw std::invalid_argument("expected a number of threads from 1 to 1024");
    thread_count().store(count, std::memory_order_relaxed);
}

void parallel_for(std::size_t count, std::size_t grain, RangeBody body) {
    if (count == 0)
        return;
    grain = std::max<std::size_t>(grain, 1);
    const auto threads = static_cast<std::size_t>(num_threads());
    const std::size_t useful = std::min(threads, count / grain);
    if (useful <= 1)
        return body(0, count);
    // Four chunks a thread: a core that somebody else slows down leaves its share to the rest.
    const std::size_t chunk = std::max(grain, (count + 4 * useful - 1) / (4 * useful));
    Job job(body, count, chunk, static_cast<int>(useful) - 1);
    current(current_pool).run(job);
}

void parallel_each(std::size_t count, RangeBody body) {
    const std::size_t useful = std::min(static_cast<std::size_t>(num_threads()), count);
    if (useful <= 1) {
        for (std::size_t k = 0; k < count; ++k)
            body(k, k + 1);
        return;
    }
    Job job(body, count, 1, static_cast<int>(useful) - 1);
    current(current_pool).run(job);
}

bool run_in_background(std::function<void()> job, std::size_t cost, std::size_t bound) {
    return current(current_background).add(std::move(job), cost, bound);
}

} // namespace shardwise
