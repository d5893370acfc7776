#include "core/nearest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "core/cpu.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

constexpr float none = -std::numeric_limits<float>::infinity();

struct Found {
    std::int64_t id;
    float score;
};

/// Whole numbers, so that every order of additions gives the same bits, and many scores are equal.
struct Example {
    std::size_t num_queries, num_rows, dim, keep, stride;
    std::vector<float> queries, rows, factors;
    std::vector<std::int64_t> ids;
    std::vector<float> scores;

    Example(std::size_t q, std::size_t n, std::size_t d, std::size_t k, unsigned seed)
        : num_queries(q), num_rows(n), dim(d), keep(k), stride(d + seed % 3), queries(q * d),
          rows(n * stride), factors(n), ids(q * k, -1), scores(q * k, none) {
        std::mt19937 random(seed);
        for (std::vector<float> *numbers : {&queries, &rows})
            for (float &number : *numbers)
                number = static_cast<float>(static_cast<int>(random() % 7) - 3);
        for (float &factor : factors)
            factor = static_cast<float>(1 + random() % 2) / 2;
    }

    bool run(std::size_t from, std::size_t to, Products products = Products::fastest) {
        Nearest task;
        task.queries = queries.data();
        task.num_queries = num_queries;
        task.dim = dim;
        task.rows = reinterpret_cast<const std::byte *>(rows.data() + from * stride);
        task.stride = static_cast<std::ptrdiff_t>(stride * sizeof(float));
        task.num_rows = to - from;
        task.factors = factors.data() + from;
        task.first_id = static_cast<std::int64_t>(from);
        task.keep = keep;
        task.ids = ids.data();
        task.scores = scores.data();
        return find_nearest(task, products);
    }

    std::vector<Found> expected(std::size_t query) const {
        std::vector<Found> all;
        for (std::size_t row = 0; row < num_rows; ++row) {
            float product = 0;
            for (std::size_t d = 0; d < dim; ++d)
                product += queries[query * dim + d] * rows[row * stride + d];
            if (!std::isnan(product * factors[row]))
                all.push_back({static_cast<std::int64_t>(row), product * factors[row]});
        }
        std::stable_sort(all.begin(), all.end(),
                         [](const Found &a, const Found &b) { return a.score > b.score; });
        all.resize(std::min(all.size(), keep));
        return all;
    }

    void check() const {
        for (std::size_t query = 0; query < num_queries; ++query) {
            std::vector<Found> found;
            for (std::size_t k = 0; k < keep; ++k)
                if (scores[query * keep + k] != none)
                    found.push_back({ids[query * keep + k], scores[query * keep + k]});
            std::sort(found.begin(), found.end(), [](const Found &a, const Found &b) {
                return a.score > b.score || (a.score == b.score && a.id < b.id);
            });
            const std::vector<Found> wanted = expected(query);
            CHECK(found.size() == wanted.size());
            for (std::size_t k = 0; k < found.size(); ++k) {
                CHECK(found[k].id == wanted[k].id);
                CHECK(found[k].score == wanted[k].score);
            }
        }
    }
};

enum class Kind { plain, clustered, equal, zeros, wild, scaled, count };

/// Numbers as tables have them, and as they should not. `plain`: of a normal distribution; `clustered`:
/// around few rows, so that many are near the worst; `equal`: few different rows; `zeros`: half of them, of
/// queries also; `wild`: infinities, NaN and negative factors among them; `scaled`: of very different sizes.
Example example_of(Kind kind, std::size_t q, std::size_t n, std::size_t d, std::size_t k, unsigned seed) {
    Example made(q, n, d, k, seed);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> centres(5 * d);
    for (std::vector<float> *numbers : {&made.queries, &made.rows, &centres})
        for (float &number : *numbers)
            number = normal(random);
    const auto scale = [&] { return std::ldexp(1.0F, static_cast<int>(random() % 252) - 126); };
    for (std::size_t row = 0; row < n; ++row) {
        float *values = made.rows.data() + row * made.stride;
        const std::size_t centre = random() % 5;
        for (std::size_t i = 0; i < d; ++i)
            if (kind == Kind::clustered || kind == Kind::equal)
                values[i] = centres[centre * d + i] + (kind == Kind::clustered ? 0.01F * values[i] : 0.0F);
        if (kind == Kind::zeros && random() % 2 == 0)
            std::fill(values, values + d, 0.0F);
        const float by = kind == Kind::scaled && random() % 3 == 0 ? scale() : 1.0F;
        float squares = 0;
        for (std::size_t i = 0; i < d; ++i) {
            values[i] *= by;
            squares += values[i] * values[i];
        }
        made.factors[row] = squares > 0 && random() % 9 != 0 ? 1 / std::sqrt(squares) : 1.0F;
        if (kind == Kind::wild && random() % 40 == 0) {
            const float odd[] = {HUGE_VALF, -HUGE_VALF, NAN, 0.0F, -1.0F};
            (random() % 2 == 0 ? values[random() % d] : made.factors[row]) = odd[random() % 5];
        }
    }
    for (std::size_t query = 0; query < q; ++query) {
        float *values = made.queries.data() + query * d;
        if (kind == Kind::clustered || kind == Kind::equal)
            std::copy_n(centres.data() + random() % 5 * d, d, values);
        if ((kind == Kind::zeros && random() % 9 == 0) || (kind == Kind::wild && random() % 100 == 0))
            std::fill(values, values + d, kind == Kind::zeros ? 0.0F : NAN);
        const float by = kind == Kind::scaled && random() % 50 == 0 ? scale() : 1.0F;
        for (std::size_t i = 0; i < d; ++i)
            values[i] *= by;
    }
    return made;
}

/// Each query's best, in the order of their ids: the bits of the scores with them.
std::vector<std::pair<std::int64_t, std::uint32_t>> in_order(const Example &example) {
    std::vector<std::pair<std::int64_t, std::uint32_t>> all;
    for (std::size_t query = 0; query < example.num_queries; ++query) {
        const std::size_t at = all.size();
        for (std::size_t k = query * example.keep; k < (query + 1) * example.keep; ++k) {
            std::uint32_t bits = 0;
            std::memcpy(&bits, &example.scores[k], sizeof bits);
            all.emplace_back(example.scores[k] == none ? -1 : example.ids[k], bits);
        }
        std::sort(all.begin() + static_cast<std::ptrdiff_t>(at), all.end());
    }
    return all;
}

/// Products by bytes first find the same rows with the same bits as those of floats alone.
void test_bytes() {
    unsigned seed = 0;
    const auto same = [&](Kind kind, std::size_t queries, std::size_t rows, std::size_t dim,
                          std::size_t keep) {
        Example floats = example_of(kind, queries, rows, dim, keep, ++seed), bytes = floats;
        const std::size_t middle = rows * (seed % 3) / 3;
        for (const auto &[from, to] : {std::pair{std::size_t{0}, middle}, std::pair{middle, rows}}) {
            floats.run(from, to, Products::floats);
            bytes.run(from, to, Products::bytes);
        }
        CHECK(in_order(floats) == in_order(bytes));
    };
    for (int kind = 0; kind < static_cast<int>(Kind::count); ++kind) {
        for (std::size_t dim = 1; dim <= 130; dim += dim < 36 ? 1 : 31)
            same(static_cast<Kind>(kind), 1 + dim * 7 % 90, 200 + dim, dim, 1 + dim * 11 % 50);
        for (const std::size_t keep : {1, 16, 65})
            for (const std::size_t queries : {3, 17, 64, 130})
                same(static_cast<Kind>(kind), queries, 2500, 40, keep);
        same(static_cast<Kind>(kind), 70, 900, 300, 10);
    }
    // Among rows that are equal, bytes are of little use.
    for (const Kind kind : {Kind::plain, Kind::equal})
        for (const Products products : {Products::floats, Products::bytes}) {
            const bool in_vain = kind == Kind::equal && products == Products::bytes;
            Example example = example_of(kind, 64, 2500, 40, 16, 5);
            std::fill(example.factors.begin(), example.factors.end(), 1.0F);
            CHECK(example.run(0, 2500, products) == !(in_vain && multiplies_bytes(level())));
        }
}

/// A row or query of which the rounding to bytes loses all that it can: half a step of each value, all in one
/// direction. That of the others are all `steps` steps, or any number of them.
void fill_lossy(float *values, std::size_t dim, float step, int steps, std::mt19937 &random) {
    values[0] = 126.99F * step; // one more makes the largest a step of its own
    for (std::size_t i = 1; i < dim; ++i)
        values[i] =
            step * (static_cast<float>(steps >= 0 ? steps : static_cast<int>(random() % 126)) + 0.499F);
}

/// What is lost of one is along the other's direction, as far as the bound allows: a row is found where it
/// exceeds the worst by the last bit, and is not where it does not. Few queries have a chance: were there
/// many, floats would take them at once.
void test_bound() {
    std::mt19937 random(7);
    constexpr std::size_t queries = 40;
    for (const std::size_t dim : {2, 3, 16, 17, 64, 100, 301, 1024, 4000})
        for (int round = 0; round < 36; ++round) {
            const int steps[] = {0, 125, -1};
            Example example(queries, 3, dim, 1, 3);
            std::fill(example.rows.begin(), example.rows.end(), 0.0F);
            const float step = std::ldexp(round % 5 == 0 ? 0.7F : 1.0F, round - 20);
            for (std::size_t query = 0; query < queries; ++query)
                fill_lossy(&example.queries[query * dim], dim, query % 3 == 0 ? -step : step,
                           steps[round % 3], random);
            fill_lossy(&example.rows[example.stride], dim, step, steps[round / 3 % 3], random);
            example.factors[1] = round % 2 == 0 ? -0.37F : 1.7F;
            Example found = example;
            found.run(1, 2, Products::floats);
            for (const bool below : {true, false}) {
                for (std::size_t query = 0; query < queries; ++query) {
                    const float score = found.scores[query];
                    example.ids[query] = -1;
                    example.scores[query] = query % 2 == 0 ? std::numeric_limits<float>::max()
                                            : below        ? std::nextafter(score, none)
                                                           : score;
                }
                Example wanted = example, bytes = example;
                wanted.run(0, 3, Products::floats);
                bytes.run(0, 3, Products::bytes);
                CHECK(in_order(wanted) == in_order(bytes));
                for (std::size_t query = 1; query < queries; query += 2)
                    CHECK(found.scores[query] < 0 || bytes.ids[query] == (below ? 1 : -1));
            }
        }
    // Of a query of zeros nothing is lost, and a worst score may be the least number there is.
    Example zero(20, 12, 8, 1, 3);
    std::fill(zero.rows.begin(), zero.rows.end(), 0.0F);
    for (std::size_t query = 0; query < 20; ++query) {
        zero.scores[query] = std::numeric_limits<float>::denorm_min() * (query < 2 ? -1 : 1);
        for (std::size_t i = 0; i < 8; ++i)
            zero.queries[query * 8 + i] = query % 2 == 0 ? 0.0F : 1e6F;
    }
    Example wanted = zero;
    wanted.run(0, 12, Products::floats);
    zero.run(0, 12, Products::bytes);
    CHECK(in_order(wanted) == in_order(zero));
    CHECK(zero.ids[0] == 0 && zero.ids[1] == 0 && zero.ids[2] == -1);
}

} // namespace

int main() {
    unsigned seed = 0;
    for (const int threads : {1, 3}) {
        set_num_threads(threads);
        for (const std::size_t queries : {1, 5, 6, 7, 100, 1600})
            for (const std::size_t rows : {1, 63, 64, 65, 700})
                for (const std::size_t dim : {1, 16, 33})
                    for (const std::size_t keep : {1, 2, 16, 90}) {
                        if (queries * rows > 100'000 && dim > 16)
                            continue;
                        Example example(queries, rows, dim, keep, ++seed);
                        if (seed % 5 == 0)
                            example.factors[seed % rows] = std::numeric_limits<float>::quiet_NaN();
                        // In blocks, as a table is read.
                        const std::size_t middle = rows * (seed % 4) / 4;
                        const Products products[] = {Products::fastest, Products::floats, Products::bytes};
                        example.run(0, middle, products[seed % 3]);
                        example.run(middle, rows, products[seed / 3 % 3]);
                        example.check();
                    }
        test_bytes();
    }
    test_bound();
    // Nothing to look at: what was the best stays so.
    Example example(3, 8, 0, 2, 1);
    example.run(0, 0);
    CHECK(example.scores[0] == none);
    example.run(0, 8); // rows of no columns: all scores are zero, and the lowest ids stay
    example.check();
    return 0;
}
