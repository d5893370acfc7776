#include "core/cpu.h"

#include <cstdlib>
#include <stdexcept>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace shardwise {

std::size_t supported_levels() {
#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
    __builtin_cpu_init();
    // The features by name: compilers learned to ask for "x86-64-v3" as a whole only lately.
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return v4 ? 3 : v3 ? 2 : 1;
#else
    return 1;
#endif
}

bool multiplies_bytes(std::size_t level) {
#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
    static const bool avx_vnni = [] { // compilers learned that name only lately
        unsigned a = 0, b = 0, c = 0, d = 0;
        return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1U << 4)) != 0;
    }();
    if (level >= supported_levels())
        return false;
    return level == 2 ? __builtin_cpu_supports("avx512vnni") : level == 1 && avx_vnni;
#else
    static_cast<void>(level);
    return false;
#endif
}

namespace {

std::size_t choose_level() {
    const std::size_t supported = supported_levels();
    const char *forced = std::getenv("SHARDWISE_ISA");
    if (forced == nullptr || *forced == '\0')
        return supported - 1;
    std::string known;
    for (std::size_t k = 0; k < supported; ++k) {
        if (std::string(forced) == level_names[k])
            return k;
        known += (k == 0 ? "" : ", ") + std::string(level_names[k]);
    }
    throw std::invalid_argument(
        "SHARDWISE_ISA must be one of the instruction levels that this machine has (" + known + "), got \"" +
        forced + "\"; unset it to use the best");
}

} // namespace

std::size_t level() {
    static const std::size_t chosen = choose_level();
    return chosen;
}

} // namespace shardwise
