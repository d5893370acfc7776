#pragma once
// What a build may ask of the system beyond C++. SHARDWISE_PORTABLE leaves it out wherever there is something
// that takes its place, so that this is tested on systems that have it all. What must be as the system is
// (fork, signals) goes by the system alone.

#if !defined(_WIN32) && !defined(SHARDWISE_PORTABLE)
#define SHARDWISE_POSIX 1
#else
#define SHARDWISE_POSIX 0
#endif

#if defined(__linux__) && SHARDWISE_POSIX
#define SHARDWISE_LINUX 1
#else
#define SHARDWISE_LINUX 0
#endif
