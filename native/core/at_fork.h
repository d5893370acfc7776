#pragma once
// Threads and forks: what a child finds, and the threads that the process has of its own.

#include <functional>

namespace shardwise {

/// Has these called around each fork: before it, then in the parent and in the child. Any may be null.
/// Nothing where there are no forks.
void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)());

/// Starts a thread that lives as long as the process, and takes none of the program's signals. False where
/// the system has no more threads to give.
bool start_thread(std::function<void()> body);

/// CPUs that the process may use: its affinity, and the quota of its control group (a container's limit).
int usable_cpus();

} // namespace shardwise
