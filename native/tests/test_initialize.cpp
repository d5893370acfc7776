#include "core/initialize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

const Distribution all[] = {Distribution::uniform, Distribution::normal, Distribution::truncated_normal};

template <class T>
std::vector<T> rows_of(const Initialize &how, const std::vector<std::int64_t> &ids, std::size_t columns) {
    std::vector<T> out(ids.size() * columns);
    initialize(how, ids.data(), ids.size(), columns, out.data());
    return out;
}

/// A row is the same alone, among others, on any number of threads; and no two are.
void check_rows_stand_alone() {
    std::vector<std::int64_t> ids(20'000);
    for (std::size_t k = 0; k < ids.size(); ++k)
        ids[k] = static_cast<std::int64_t>(k * 977) + (k % 2 == 0 ? 0 : std::int64_t{1} << 40);
    for (const Distribution distribution : all) {
        for (const std::size_t columns : {1, 2, 7}) {
            const Initialize how{distribution, -1, 2, 12345678901234567890U};
            set_num_threads(1);
            const std::vector<float> alone = rows_of<float>(how, ids, columns);
            set_num_threads(4);
            CHECK(rows_of<float>(how, ids, columns) == alone);
            std::vector<std::int64_t> backwards(ids.rbegin(), ids.rend());
            const std::vector<float> turned = rows_of<float>(how, backwards, columns);
            for (std::size_t k = 0; k < ids.size(); ++k)
                CHECK(std::equal(&alone[k * columns], &alone[k * columns] + columns,
                                 &turned[(ids.size() - 1 - k) * columns]));
            // The first columns do not depend on how many there are.
            const std::vector<float> wider = rows_of<float>(how, ids, columns + 3);
            for (std::size_t k = 0; k < ids.size(); ++k)
                CHECK(std::equal(&alone[k * columns], &alone[k * columns] + columns,
                                 &wider[k * (columns + 3)]));
            const Initialize other{distribution, -1, 2, 1};
            CHECK(rows_of<float>(other, ids, columns) != alone);
        }
    }
}

/// Mean, variance and bounds of many values, within five standard errors.
void check_moments() {
    std::vector<std::int64_t> ids(10'000);
    for (std::size_t k = 0; k < ids.size(); ++k)
        ids[k] = static_cast<std::int64_t>(k);
    const double deviations[] = {1 / std::sqrt(12.0), 1, 0.87962566103423978};
    for (std::size_t d = 0; d < 3; ++d) {
        const Initialize how{all[d], all[d] == Distribution::uniform ? -0.5 : 0.0,
                             all[d] == Distribution::uniform ? 0.5 : 1.0, 7};
        const std::vector<double> values = rows_of<double>(how, ids, 100);
        double sum = 0;
        double squares = 0;
        for (const double value : values) {
            sum += value;
            squares += value * value;
        }
        const double count = static_cast<double>(values.size());
        CHECK(std::fabs(sum / count) < 5 * deviations[d] / std::sqrt(count));
        CHECK(std::fabs(std::sqrt(squares / count) - deviations[d]) < 5 * deviations[d] / std::sqrt(count));
        const auto [least, most] = std::minmax_element(values.begin(), values.end());
        if (all[d] == Distribution::uniform)
            CHECK(*least >= -0.5 && *most < 0.5);
        if (all[d] == Distribution::normal)
            CHECK(*least < -4 && *most > 4);
        if (all[d] == Distribution::truncated_normal)
            CHECK(*least >= -2 && *most <= 2);
    }
}

void check_float_stays_below() {
    std::vector<std::int64_t> ids(200'000);
    for (std::size_t k = 0; k < ids.size(); ++k)
        ids[k] = static_cast<std::int64_t>(k);
    const std::vector<float> values = rows_of<float>({Distribution::uniform, 0, 1, 7}, ids, 100);
    CHECK(*std::max_element(values.begin(), values.end()) < 1.0F);
}

} // namespace

int main() {
    check_rows_stand_alone();
    check_moments();
    check_float_stays_below();
    return 0;
}
