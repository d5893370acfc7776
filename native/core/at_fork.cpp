#include "core/at_fork.h"

#include <algorithm>
#include <cstdio>
#include <system_error>
#include <thread>
#include <utility>

#include "core/platform.h"

#if SHARDWISE_LINUX
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif

namespace shardwise {

void at_fork([[maybe_unused]] void (*before)(), [[maybe_unused]] void (*in_parent)(),
             [[maybe_unused]] void (*in_child)()) {
#if !defined(_WIN32)
    pthread_atfork(before, in_parent, in_child);
#endif
}

bool start_thread(std::function<void()> body) {
#if !defined(_WIN32)
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    for (const int own : {SIGBUS, SIGFPE, SIGILL, SIGSEGV}) // what a thread does itself comes to it alone
        sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
    bool started = true;
    try {
        std::thread(std::move(body)).detach();
    } catch (const std::system_error &) {
        started = false;
    }
#if !defined(_WIN32)
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    return started;
}

int usable_cpus() {
    int cpus = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
#if SHARDWISE_LINUX
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cpus = std::max(1, CPU_COUNT(&set));
    if (std::FILE *file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
        long quota = 0;
        long period = 0;
        if (std::fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0)
            cpus = static_cast<int>(std::clamp<long>((quota + period - 1) / period, 1, cpus));
        std::fclose(file);
    }
#endif
    return cpus;
}

} // namespace shardwise
