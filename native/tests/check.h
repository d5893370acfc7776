#pragma once
// The least that a test needs; the core's tests must build wherever a compiler is, with nothing to fetch.

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                     \
            std::exit(1);                                                                                    \
        }                                                                                                    \
    } while (0)

#define CHECK_THROWS(expression, exception)                                                                  \
    do {                                                                                                     \
        bool thrown = false;                                                                                 \
        try {                                                                                                \
            (void)(expression);                                                                              \
        } catch (const exception &) {                                                                        \
            thrown = true;                                                                                   \
        }                                                                                                    \
        if (!thrown) {                                                                                       \
            std::fprintf(stderr, "%s:%d: did not throw %s: %s\n", __FILE__, __LINE__, #exception,            \
                         #expression);                                                                       \
            std::exit(1);                                                                                    \
        }                                                                                                    \
    } while (0)
