#include "core/update.h"

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "check.h"
#include "core/radix.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

/// A table of zeros and a state in exact blocks, so that a sanitizer sees each byte beyond.
template <class T> struct Table {
    Partition partition;
    std::size_t dim;
    std::vector<std::vector<T>> rows;
    std::vector<std::vector<T>> states;
    std::vector<std::vector<std::int64_t>> steps;
    std::vector<Shard> row_shards, state_shards[most_states];

    Table(const Partition &cut, std::size_t columns, const Slots &slots) : partition(cut), dim(columns) {
        for (std::int64_t k = 0; k < cut.num_shards(); ++k) {
            const auto size = static_cast<std::size_t>(cut.shard_size(k));
            rows.emplace_back(size * dim);
            row_shards.push_back(shard_of(rows.back(), dim * sizeof(T)));
        }
        states.reserve(most_states * rows.size());
        steps.reserve(rows.size());
        for (std::size_t slot = 0; slot < most_states; ++slot) {
            for (std::int64_t k = 0; slots.numbers[slot] > 0 && k < cut.num_shards(); ++k) {
                const auto size = static_cast<std::size_t>(cut.shard_size(k));
                if (slot == 2) {
                    steps.emplace_back(size);
                    state_shards[slot].push_back(shard_of(steps.back(), 8));
                } else {
                    states.emplace_back(size * slots.numbers[slot]);
                    state_shards[slot].push_back(shard_of(states.back(), slots.numbers[slot] * sizeof(T)));
                }
            }
        }
    }

    template <class V> static Shard shard_of(const V &values, std::size_t stride) {
        return {reinterpret_cast<const std::byte *>(values.data()), static_cast<std::ptrdiff_t>(stride)};
    }

    template <class Id>
    Update task(const std::vector<Id> &ids, IdType type, const std::vector<T> &gradients) {
        Update task;
        task.rows.partition = partition.view();
        task.rows.shards = row_shards.data();
        task.rows.row_bytes = dim * sizeof(T);
        task.rows.ids = ids.data();
        task.rows.id_type = type;
        task.rows.count = ids.size();
        task.rows.format = sizeof(T) == 8 ? RowFormat::float64 : RowFormat::float32;
        task.rows.dim = dim;
        task.gradients = reinterpret_cast<const std::byte *>(gradients.data());
        for (std::size_t k = 0; k < most_states; ++k)
            if (!state_shards[k].empty())
                task.state[k] = {state_shards[k].data(), static_cast<std::size_t>(state_shards[k][0].stride)};
        return task;
    }

    T at(std::int64_t id, std::size_t column) const {
        std::int64_t shard, row;
        partition.locate(&id, 1, &shard, &row);
        return rows[static_cast<std::size_t>(shard)][static_cast<std::size_t>(row) * dim + column];
    }
};

template <class T> std::vector<T> numbers(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<T> found(count);
    for (T &x : found)
        x = static_cast<T>(static_cast<double>(random()) / 4294967296.0 - 0.5);
    return found;
}

template <class Id> std::vector<Id> some_ids(std::size_t count, std::int64_t rows, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Id> found(count);
    for (Id &id : found) {
        const double u = static_cast<double>(random()) / 4294967296.0;
        id = static_cast<Id>(u * u * u * static_cast<double>(rows)); // some come often
    }
    return found;
}

Rule sgd_of(double rate) {
    Rule rule;
    rule.learning_rate = rate;
    return rule;
}

template <class T, class Id>
void test_sums(IdType type, std::size_t dim, std::size_t count, const Partition &cut) {
    const auto ids = some_ids<Id>(count, cut.num_rows(), 1);
    const auto gradients = numbers<T>(count * dim, 2);
    Table<T> table(cut, dim, slots_of(sgd_of(1), dim));
    Update task = table.task(ids, type, gradients);
    task.rule = sgd_of(1);
    CHECK(!update(task).any());
    std::map<std::int64_t, std::vector<T>> sums;
    for (std::size_t i = 0; i < count; ++i) {
        const auto [found, is_new] = sums.try_emplace(static_cast<std::int64_t>(ids[i]), dim);
        for (std::size_t k = 0; k < dim; ++k) {
            const T gradient = gradients[i * dim + k];
            found->second[k] = is_new ? gradient : found->second[k] + gradient;
        }
    }
    for (std::int64_t id = 0; id < cut.num_rows(); ++id)
        for (std::size_t k = 0; k < dim; ++k)
            CHECK(table.at(id, k) == (sums.count(id) != 0 ? T{0} - sums[id][k] : T{0}));
}

/// Each rule, on rows of each length up to some chunks, in the least memory.
template <class T> void test_rules() {
    for (const RuleKind kind : {RuleKind::sgd, RuleKind::adagrad, RuleKind::rowwise_adagrad,
                                RuleKind::rmsprop, RuleKind::adam, RuleKind::ftrl}) {
        for (const bool more : {false, true}) {
            for (std::size_t dim = 1; dim <= 37; dim += dim < 20 ? 1 : 4) {
                Rule rule = sgd_of(0.1);
                rule.kind = kind;
                rule.eps = 1e-8;
                rule.beta1 = 0.9;
                rule.beta2 = 0.99;
                rule.momentum = more ? 0.9 : 0;
                rule.corrected = rule.nesterov = more;
                rule.clip_norm = more ? 0.5 : rule.clip_norm;
                Table<T> table(Partition::mod(50, 3), dim, slots_of(rule, dim));
                for (rule.step = 1; rule.step <= 4; ++rule.step) {
                    const auto ids = some_ids<std::int32_t>(40, 50, static_cast<unsigned>(rule.step));
                    const auto gradients = numbers<T>(40 * dim, 3);
                    Update task = table.task(ids, IdType::i32, gradients);
                    task.rule = rule;
                    CHECK(!update(task).any());
                    CHECK(std::isfinite(table.at(ids[0], dim - 1)));
                    CHECK(table.at(ids[0], dim - 1) != 0);
                }
            }
        }
    }
}

void test_bags() {
    constexpr std::size_t dim = 19;
    const std::vector<std::int64_t> offsets = {0, 0, 3, 3, 4, 700, 700};
    const std::size_t bags = offsets.size() - 1;
    const auto ids = some_ids<std::int64_t>(700, 60, 4);
    const auto gradients = numbers<float>(bags * dim, 5);
    const auto weights = numbers<float>(ids.size(), 6);
    for (const Combiner combiner : {Combiner::sum, Combiner::mean, Combiner::sqrtn, Combiner::max}) {
        for (const bool weighted : {false, true}) {
            Table<float> table(Partition::div(60, 4), dim, slots_of(sgd_of(1), dim));
            Update task = table.task(ids, IdType::i64, gradients);
            task.rule = sgd_of(1);
            task.offsets = offsets.data();
            task.num_bags = bags;
            task.combiner = combiner;
            task.weights = weighted ? weights.data() : nullptr;
            task.has_padding = true;
            task.padding = ids[5];
            task.skip_weightless = weighted;
            CHECK(!update(task).any());
            for (std::size_t k = 0; k < dim; ++k)
                CHECK(table.at(ids[5], k) == 0);
            double moved = 0;
            for (std::int64_t id = 0; id < 60; ++id)
                moved += std::fabs(table.at(id, 0));
            CHECK(moved > 0);
        }
    }
}

void test_refused() {
    const auto gradients = numbers<double>(8 * 2, 7);
    Table<double> table(Partition::mod(10, 2), 2, slots_of(sgd_of(1), 2));
    const std::vector<std::int8_t> ids = {1, 2, 3, 10, 4, -1, 5, 6};
    Update task = table.task(ids, IdType::i8, gradients);
    task.rule = sgd_of(1);
    CHECK(update(task).id == 3);
    task.rows.count = 3;
    auto wrong = gradients;
    wrong[5] = std::nan("");
    task.gradients = reinterpret_cast<const std::byte *>(wrong.data());
    std::vector<std::uint8_t> changed(2);
    task.changed = changed.data();
    CHECK(update(task).number == 5);
    CHECK(changed[0] == 0 && changed[1] == 0);
    for (std::int64_t id = 0; id < 10; ++id)
        CHECK(table.at(id, 0) == 0);
    task.check_finite = false;
    CHECK(!update(task).any());
    CHECK(std::isnan(table.at(3, 1)) && table.at(1, 0) != 0);
    CHECK(changed[0] == 0b1110 && changed[1] == 0);
    changed = {0, 0b10};
    std::vector<std::uint8_t> frozen(10);
    frozen[1] = 1;
    task.frozen = frozen.data();
    task.frozen_begin = 2;
    task.frozen_end = 4;
    task.gradients = reinterpret_cast<const std::byte *>(gradients.data());
    const double before[] = {table.at(1, 0), table.at(2, 0)};
    CHECK(!update(task).any());
    CHECK(table.at(1, 0) == before[0] && table.at(2, 0) == before[1]);
    CHECK(changed[0] == 0 && changed[1] == 0b10); // no frozen row, and what was set stays set
}

void test_small_floats() {
    for (const RowFormat format : {RowFormat::float16, RowFormat::bfloat16}) {
        for (std::size_t dim = 1; dim < 40; ++dim) {
            std::vector<std::uint16_t> row(dim);
            const std::vector<float> gradient(dim, -1.0F);
            const std::int64_t id = 0;
            const Shard shard{reinterpret_cast<const std::byte *>(row.data()),
                              static_cast<std::ptrdiff_t>(2 * dim)};
            const Partition cut = Partition::mod(1, 1);
            Update task;
            task.rows.partition = cut.view();
            task.rows.shards = &shard;
            task.rows.row_bytes = 2 * dim;
            task.rows.ids = &id;
            task.rows.count = 1;
            task.rows.format = format;
            task.rows.dim = dim;
            task.gradients = reinterpret_cast<const std::byte *>(gradient.data());
            task.rule = sgd_of(1);
            for (task.seed = 0; task.seed < 2; ++task.seed) {
                task.stochastic = task.seed != 0;
                CHECK(!update(task).any());
            }
            for (const std::uint16_t bits : row)
                CHECK(bits == 0x4000); // 2, in both formats
        }
    }
}

__extension__ using Wide = unsigned __int128;

template <class Number> void test_sort(std::size_t count, unsigned bits) {
    std::mt19937_64 random(count);
    std::vector<Number> data(count), spare(count);
    for (std::size_t i = 0; i < count; ++i)
        data[i] = static_cast<Number>(random() & ((std::uint64_t{1} << bits) - 1)) << 20 | i;
    auto expected = data;
    std::sort(expected.begin(), expected.end());
    const Number *const found = radix_sort(data.data(), spare.data(), count, 20, bits);
    CHECK(std::equal(expected.begin(), expected.end(), found));
}

} // namespace

int main() {
    for (const int threads : {1, 2, 4}) {
        set_num_threads(threads);
        for (const std::size_t count : {0U, 1U, 7U, 600U, 40000U}) {
            for (const unsigned bits : {1U, 8U, 11U, 24U, 40U})
                test_sort<std::uint64_t>(count, bits);
            test_sort<Wide>(count, 50);
            test_sums<float, std::int64_t>(IdType::i64, 16, count, Partition::mod(5000, 7));
            test_sums<double, std::uint32_t>(IdType::u32, 9, count, Partition::div(5000, 7));
            test_sums<float, std::uint16_t>(IdType::u16, 5, count, Partition::ranges({0, 0, 30, 5000}));
        }
        test_sums<float, std::int16_t>(IdType::i16, 3, 5000, Partition::mod(100, 1));
        test_sums<float, std::int32_t>(IdType::i32, 3, 5000, Partition::mod(100, 100));
        test_sums<float, std::uint8_t>(IdType::u8, 3, 5000, Partition::mod(200, 3));
        test_sums<double, std::uint64_t>(IdType::u64, 33, 5000, Partition::mod(200, 3));
    }
    test_rules<float>();
    test_rules<double>();
    test_bags();
    test_refused();
    test_small_floats();
    return 0;
}
