#pragma once
// The instruction level that kernels run at, chosen once.

#include <cstddef>
#include <string>
#include <vector>

namespace shardwise {

/// Levels that this build has kernels for, from the least: x86-64, x86-64-v3, x86-64-v4; elsewhere
/// "baseline".
#if defined(__x86_64__) || defined(_M_X64)
inline constexpr const char *level_names[] = {"x86-64", "x86-64-v3", "x86-64-v4"};
#else
inline constexpr const char *level_names[] = {"baseline"};
#endif
inline constexpr std::size_t num_levels = sizeof(level_names) / sizeof(level_names[0]);

/// How many of `level_names` this processor runs.
std::size_t supported_levels();

/// Whether this processor multiplies bytes at a level, and adds four products at once: AVX512-VNNI and
/// AVX-VNNI, which are parts of no level.
bool multiplies_bytes(std::size_t level);

/// The level in use, an index into `level_names`: the highest supported, or the one that SHARDWISE_ISA names.
/// Throws std::invalid_argument where SHARDWISE_ISA names a level that is unknown or not supported.
std::size_t level();

} // namespace shardwise
