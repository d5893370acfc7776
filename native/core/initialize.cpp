#include "core/initialize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/threads.h"

namespace shardwise {
namespace {

/// Philox4x32-10: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::uint64_t key) {
    auto k0 = static_cast<std::uint32_t>(key);
    auto k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

template <std::size_t N> double polynomial(const double (&c)[N], double x) {
    double sum = c[N - 1];
    for (std::size_t k = N - 1; k-- > 0;)
        sum = sum * x + c[k];
    return sum;
}

/// The normal distribution's quantile at p in (0, 1): M. Wichura, algorithm AS 241 (PPND16), Applied
/// Statistics 37 (1988), 477-484.
double normal_quantile(double p) {
    static constexpr double a[] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                                   1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                   4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                   3.3430575583588128105e+4, 2.5090809287301226727e+3};
    static constexpr double b[] = {1.0,
                                   4.2313330701600911252e+1,
                                   6.8718700749205790830e+2,
                                   5.3941960214247511077e+3,
                                   2.1213794301586595867e+4,
                                   3.9307895800092710610e+4,
                                   2.8729085735721942674e+4,
                                   5.2264952788528545610e+3};
    static constexpr double c[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                   5.76949722146069140550e0,  3.64784832476320460504e0,
                                   1.27045825245236838258e0,  2.41780725177450611770e-1,
                                   2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static constexpr double d[] = {1.0,
                                   2.05319162663775882187e0,
                                   1.67638483018380384940e0,
                                   6.89767334985100004550e-1,
                                   1.48103976427480074590e-1,
                                   1.51986665636164571966e-2,
                                   5.47593808499534494600e-4,
                                   1.05075007164441684324e-9};
    static constexpr double e[] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                   1.78482653991729133580e0,  2.96560571828504891230e-1,
                                   2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                   2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static constexpr double f[] = {1.0,
                                   5.99832206555887937690e-1,
                                   1.36929880922735805310e-1,
                                   1.48753612908506148525e-2,
                                   7.86869131145613259100e-4,
                                   1.84631831751005468180e-5,
                                   1.42151175831644588870e-7,
                                   2.04426310338993978564e-15};
    const double q = p - 0.5;
    if (std::fabs(q) <= 0.425) {
        const double r = 0.180625 - q * q;
        return q * polynomial(a, r) / polynomial(b, r);
    }
    double r = std::sqrt(-std::log(q < 0 ? p : 1 - p));
    double x;
    if (r <= 5) {
        r -= 1.6;
        x = polynomial(c, r) / polynomial(d, r);
    } else {
        r -= 5;
        x = polynomial(e, r) / polynomial(f, r);
    }
    return q < 0 ? -x : x;
}

double value_of(const Initialize &how, std::uint64_t bits) {
    constexpr double unit = 1.0 / (std::uint64_t{1} << 53);
    constexpr double below_two = 0.022750131948179207200; // the normal distribution's share under -2
    const double cell = static_cast<double>(bits >> 11);
    switch (how.distribution) {
    case Distribution::normal:
        return how.a + how.b * normal_quantile((cell + 0.5) * unit);
    case Distribution::truncated_normal:
        return how.a + how.b * normal_quantile(below_two + (cell + 0.5) * unit * (1 - 2 * below_two));
    case Distribution::uniform:
        break;
    }
    return how.a + (how.b - how.a) * (cell * unit);
}

} // namespace

template <class T>
void initialize(const Initialize &how, const std::int64_t *ids, std::size_t count, std::size_t columns,
                T *out) {
    constexpr std::size_t values_for_threads = std::size_t{1} << 14;
    const std::size_t grain = values_for_threads / (columns + 1) + 1;
    // The nearest T of a number just below b may be b, which is not in the range.
    const bool half_open = how.distribution == Distribution::uniform && how.a < how.b;
    const T most = half_open ? std::nextafter(static_cast<T>(how.b), static_cast<T>(how.a))
                             : std::numeric_limits<T>::infinity();
    const auto rounded = [&](double value) { return std::min(static_cast<T>(value), most); };
    parallel_for(count, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k) {
            const auto id = static_cast<std::uint64_t>(ids[k]);
            T *const row = out + k * columns;
            // One call gives 128 bits: two columns.
            for (std::size_t j = 0; j < columns; j += 2) {
                const std::uint64_t pair = j / 2;
                const auto words =
                    philox({static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(id >> 32),
                            static_cast<std::uint32_t>(pair), static_cast<std::uint32_t>(pair >> 32)},
                           how.seed);
                row[j] = rounded(value_of(how, words[0] | std::uint64_t{words[1]} << 32));
                if (j + 1 < columns)
                    row[j + 1] = rounded(value_of(how, words[2] | std::uint64_t{words[3]} << 32));
            }
        }
    });
}

template void initialize<float>(const Initialize &, const std::int64_t *, std::size_t, std::size_t, float *);
template void initialize<double>(const Initialize &, const std::int64_t *, std::size_t, std::size_t,
                                 double *);

} // namespace shardwise
