#pragma once
// One lazy pool of threads for every kernel.

#include <atomic>
#include <cstddef>
#include <functional>
#include <type_traits>

namespace shardwise {

/// How many threads a kernel may use, the calling one included: set_num_threads(), else
/// SHARDWISE_NUM_THREADS, else the CPUs that this process may use.
int num_threads();

/// `count` >= 1; takes effect from the next call of a kernel.
void set_num_threads(int count);

/// A reference to a callable `void(std::size_t begin, std::size_t end)`; it must outlive the call it is
/// passed to.
class RangeBody {
public:
    template <class F, std::enable_if_t<!std::is_same_v<std::decay_t<F>, RangeBody>, int> = 0>
    RangeBody(F &&body) // implicit by design: call sites pass a lambda
        : object_(const_cast<void *>(static_cast<const void *>(&body))),
          call_([](void *object, std::size_t begin, std::size_t end) {
              (*static_cast<std::remove_reference_t<F> *>(object))(begin, end);
          }) {}
    void operator()(std::size_t begin, std::size_t end) const { call_(object_, begin, end); }

private:
    void *object_;
    void (*call_)(void *, std::size_t, std::size_t);
};

/// Cuts [0, count) into ranges of at least `grain` and calls `body(begin, end)` once for each, on at most
/// num_threads() threads. Returns when all are done; the first exception of a body is thrown again here.
/// Safe from several threads at once and in a child after fork. A body must not call parallel_for.
void parallel_for(std::size_t count, std::size_t grain, RangeBody body);

/// The same for work that was cut before, into pieces that cost more or less: each is a range of its own, and
/// they are begun in their order.
void parallel_each(std::size_t count, RangeBody body);

/// Lowers `least` to `value`, where it is more: what several threads found first.
inline void lower_to(std::atomic<std::size_t> &least, std::size_t value) {
    std::size_t known = least.load(std::memory_order_relaxed);
    while (value < known && !least.compare_exchange_weak(known, value, std::memory_order_relaxed)) {
    }
}

/// Runs `job` on one thread that is kept for such work, after the jobs given before; returns at once. False,
/// and the job is dropped, where the jobs that wait would then cost more than `bound`. A job must not throw.
/// In a child after fork, the jobs that were waiting are not run.
bool run_in_background(std::function<void()> job, std::size_t cost, std::size_t bound);

} // namespace shardwise
