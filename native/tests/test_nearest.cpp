#include "core/nearest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
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

    void run(std::size_t from, std::size_t to) {
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
        find_nearest(task);
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
                        example.run(0, middle);
                        example.run(middle, rows);
                        example.check();
                    }
    }
    // Nothing to look at: what was the best stays so.
    Example example(3, 8, 0, 2, 1);
    example.run(0, 0);
    CHECK(example.scores[0] == none);
    example.run(0, 8); // rows of no columns: all scores are zero, and the lowest ids stay
    example.check();
    return 0;
}
