#include "core/skipgram.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "check.h"
#include "core/cpu.h"
#include "core/huge_pages.h"
#include "core/residency.h"
#include "core/skipgram_ahead.h"
#include "core/skipgram_corpus.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

/// Floats on a boundary of 64 bytes.
class Floats {
public:
    explicit Floats(std::size_t size) : size_(size), data_(size + 16) {}
    float *data() {
        const auto at = reinterpret_cast<std::uintptr_t>(data_.data());
        return data_.data() + (64 - at % 64) % 64 / 4;
    }
    std::size_t size() const { return size_; }

private:
    std::size_t size_;
    std::vector<float> data_;
};

std::vector<float> copy_of(Floats &floats) {
    return {floats.data(), floats.data() + floats.size()};
}

/// A step as the formula has it, pair by pair, from the rows as they were before: in float64.
struct Textbook {
    std::vector<double> inputs, outputs;
    double loss = 0;

    Textbook(const std::vector<float> &in, const std::vector<float> &out, std::size_t columns,
             const std::vector<std::size_t> &contexts, std::size_t target,
             const std::vector<std::size_t> &negatives, double rate)
        : inputs(in.begin(), in.end()), outputs(out.begin(), out.end()) {
        const std::vector<double> old_in = inputs, old_out = outputs;
        const auto pair = [&](std::size_t context, std::size_t word, double label) {
            double product = 0;
            for (std::size_t k = 0; k < columns; ++k)
                product += old_in[context * columns + k] * old_out[word * columns + k];
            const double factor = rate * (label - 1 / (1 + std::exp(-product)));
            loss += std::log1p(std::exp(label > 0 ? -product : product));
            for (std::size_t k = 0; k < columns; ++k) {
                inputs[context * columns + k] += factor * old_out[word * columns + k];
                outputs[word * columns + k] += factor * old_in[context * columns + k];
            }
        };
        for (const std::size_t context : contexts) {
            pair(context, target, 1);
            for (const std::size_t negative : negatives)
                if (negative != target)
                    pair(context, negative, 0);
        }
    }
};

/// Each word once, and how often it came.
void count(const std::vector<std::size_t> &words, std::vector<std::size_t> &once,
           std::vector<float> &counts) {
    for (const std::size_t word : words) {
        const auto at = std::find(once.begin(), once.end(), word);
        if (at == once.end()) {
            once.push_back(word);
            counts.push_back(1);
        } else {
            counts[static_cast<std::size_t>(at - once.begin())] += 1;
        }
    }
}

void check_close(const float *found, const std::vector<double> &wanted, double before_largest) {
    for (std::size_t i = 0; i < wanted.size(); ++i)
        CHECK(std::abs(static_cast<double>(found[i]) - wanted[i]) <= 1e-6 * before_largest);
}

void a_step_is_the_textbook_formula() {
    std::mt19937 random(7);
    const auto below = [&](std::size_t n) { return random() % n; };
    std::normal_distribution<float> normal;
    for (int round = 0; round < 400; ++round) {
        const std::size_t columns = row_step * (1 + below(9)), words = 2 + below(20);
        const std::size_t negatives = 1 + below(round % 4 == 0 ? 40 : 7);
        Floats in(words * columns), out(words * columns);
        const float size = round % 3 == 0 ? 1.0F : 0.1F;
        for (std::size_t i = 0; i < words * columns; ++i) {
            in.data()[i] = size * normal(random);
            out.data()[i] = size * normal(random);
        }
        std::vector<std::size_t> contexts(1 + below(most_inputs)), drawn(negatives);
        for (auto &context : contexts)
            context = below(words);
        for (auto &negative : drawn)
            negative = below(words);
        const std::size_t target = below(words);
        const auto before_in = copy_of(in), before_out = copy_of(out);
        const float rate = 0.05F;
        const Textbook wanted(before_in, before_out, columns, contexts, target, drawn,
                              static_cast<double>(rate));

        std::vector<std::size_t> once_in, once_out{target};
        std::vector<float> counts_in, counts_out{1};
        count(contexts, once_in, counts_in);
        std::vector<std::size_t> others;
        for (const std::size_t negative : drawn)
            if (negative != target)
                others.push_back(negative);
        count(others, once_out, counts_out);
        const bool plain = once_in.size() == contexts.size() && once_out.size() == 1 + others.size();

        std::vector<std::vector<float>> of_level;
        for (std::size_t level = 0; level < supported_levels(); ++level) {
            std::copy(before_in.begin(), before_in.end(), in.data());
            std::copy(before_out.begin(), before_out.end(), out.data());
            std::vector<float *> rows_in, rows_out;
            for (const std::size_t word : once_in)
                rows_in.push_back(in.data() + word * columns);
            for (const std::size_t word : once_out)
                rows_out.push_back(out.data() + word * columns);
            Floats scratch(step_scratch(columns));
            double loss = 0;
            skipgram_kernels(level).step({rows_in.data(), plain ? nullptr : counts_in.data(), rows_in.size(),
                                          rows_out.data(), plain ? nullptr : counts_out.data(),
                                          rows_out.size(), columns, rate, scratch.data(),
                                          plain ? &loss : nullptr});
            check_close(in.data(), wanted.inputs, 8 * static_cast<double>(size));
            check_close(out.data(), wanted.outputs, 8 * static_cast<double>(size));
            if (plain)
                CHECK(std::abs(loss - wanted.loss) < 1e-4 * (1 + wanted.loss));
            of_level.push_back(copy_of(in));
            const auto outputs = copy_of(out);
            of_level.back().insert(of_level.back().end(), outputs.begin(), outputs.end());
        }
        if (of_level.size() == 3) // both fuse multiplications and additions
            CHECK(std::memcmp(of_level[1].data(), of_level[2].data(), of_level[1].size() * sizeof(float)) ==
                  0);
    }
}

void the_sigmoid_holds_at_its_ends() {
    Floats in(row_step), out(2 * row_step), scratch(step_scratch(row_step));
    for (const float x : {0.0F, 1e-20F, 3.0F, -3.0F, 30.0F, -30.0F, 100.0F, -100.0F, 1e30F, -1e30F}) {
        for (std::size_t level = 0; level < supported_levels(); ++level) {
            std::fill(in.data(), in.data() + row_step, 0.0F);
            std::fill(out.data(), out.data() + 2 * row_step, 0.0F);
            in.data()[0] = x;
            out.data()[0] = out.data()[row_step] = 1;
            float *const inputs[] = {in.data()};
            float *const outputs[] = {out.data(), out.data() + row_step};
            double loss = 0;
            skipgram_kernels(level).step(
                {inputs, nullptr, 1, outputs, nullptr, 2, row_step, 1e-6F, scratch.data(), &loss});
            CHECK(std::isfinite(in.data()[0]) && std::isfinite(out.data()[0]) && std::isfinite(loss));
            const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(x)));
            const double change = 1e-6 * (1 - sigmoid - sigmoid);
            CHECK(std::abs(static_cast<double>(in.data()[0]) - static_cast<double>(x) - change) <=
                  1.2e-7 * std::abs(static_cast<double>(x)) + 1e-12);
        }
    }
}

void draws_come_as_often_as_they_should(double power) {
    const std::vector<std::int64_t> counts{0, 1, 5, 1000, 16, 0, 81};
    const auto weight = [&](std::size_t i) {
        return counts[i] == 0 ? 0 : std::pow(static_cast<double>(counts[i]), power);
    };
    std::vector<AliasEntry> entries(counts.size());
    make_alias(counts.data(), counts.size(), power, entries.data());
    std::vector<double> chance(counts.size());
    double total = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const double keep = entries[i].keep == ~std::uint32_t{0} ? 1 : entries[i].keep / 0x1p32;
        chance[i] += keep / static_cast<double>(counts.size());
        chance[static_cast<std::size_t>(entries[i].other)] += (1 - keep) / static_cast<double>(counts.size());
        total += weight(i);
    }
    for (std::size_t i = 0; i < counts.size(); ++i)
        CHECK(std::abs(chance[i] - weight(i) / total) < 1e-6);
}

/// Each epoch has each block once, and each tenth of an epoch has some of each tenth of the corpus.
void an_epoch_has_each_block_once_and_all_parts_at_all_times() {
    SkipGram task;
    for (const std::size_t blocks : {1, 2, 3, 4, 10, 55, 100, 862, 1000, 4181}) {
        task.corpus_size = blocks * block_tokens - 5;
        const SkipGramOrder order(task);
        CHECK(order.blocks() == blocks);
        std::vector<std::size_t> starts;
        for (std::size_t epoch = 0; epoch < 5; ++epoch) {
            std::vector<int> seen(blocks);
            // Of each tenth of places and each tenth of the corpus.
            std::vector<std::size_t> together(100);
            for (std::size_t place = 0; place < blocks; ++place) {
                const std::size_t block = order.block(epoch, place);
                seen.at(block) += 1;
                together[place * 10 / blocks * 10 + block * 10 / blocks] += 1;
            }
            CHECK(std::ranges::all_of(seen, [](int times) { return times == 1; }));
            if (blocks >= 500)
                CHECK(std::ranges::all_of(together, [&](std::size_t of_both) {
                    return of_both * 100 > blocks / 2 && of_both * 100 < 2 * blocks;
                }));
            starts.push_back(order.block(epoch, 0));
        }
        std::ranges::sort(starts);
        CHECK(blocks < 500 || std::ranges::adjacent_find(starts) == starts.end());
    }
}

struct Training {
    std::size_t words, columns;
    std::vector<std::int32_t> corpus;
    std::vector<AliasEntry> alias;
    std::vector<std::uint32_t> keep;
    std::vector<std::int64_t> parts, offsets;
    Floats inputs, outputs;
    SkipGram task;

    Training(std::size_t tokens, std::size_t num_words, std::size_t more, std::size_t row)
        : words(num_words), columns(row), inputs((num_words + more) * row), outputs(num_words * row) {
        std::mt19937 random(3);
        std::vector<std::int64_t> counts(words, 1);
        for (std::size_t i = 0; i < tokens; ++i) {
            const std::size_t word = random() % (1 + random() % words);
            corpus.push_back(static_cast<std::int32_t>(word));
            ++counts[word];
            if (random() % 12 == 0)
                corpus.push_back(sentence_end);
        }
        alias.resize(words);
        make_alias(counts.data(), words, 0.75, alias.data());
        for (std::size_t i = 0; i < words; ++i)
            keep.push_back(i < 2 ? 1U << 31 : ~0U);
        offsets.push_back(0);
        for (std::size_t i = 0; i < words; ++i) {
            parts.push_back(static_cast<std::int64_t>(i));
            for (std::size_t k = 0; more > 0 && k < i % 4; ++k)
                parts.push_back(static_cast<std::int64_t>(words + random() % more));
            offsets.push_back(static_cast<std::int64_t>(parts.size()));
        }
        task.corpus = corpus.data();
        task.corpus_size = corpus.size();
        task.num_words = words;
        task.inputs = inputs.data();
        task.outputs = outputs.data();
        task.columns = columns;
        task.keep = keep.data();
        task.negatives = alias.data();
        task.epochs = 3;
        if (more > 0) {
            task.parts = parts.data();
            task.part_offsets = offsets.data();
        }
    }

    void reset() {
        std::mt19937 random(1);
        std::uniform_real_distribution<float> uniform(-0.5F, 0.5F);
        for (std::size_t i = 0; i < inputs.size(); ++i)
            inputs.data()[i] = uniform(random);
        std::fill(outputs.data(), outputs.data() + outputs.size(), 0.0F);
    }
};

void a_training_is_the_same_in_any_slices() {
    for (const bool cbow : {false, true})
        for (const std::size_t more : {0, 30})
            for (const std::size_t window : {1, 5, 20}) {
                Training training(70'000, 50, more, 32);
                training.task.cbow = cbow;
                training.task.window = window;
                const std::size_t all = skipgram_blocks(training.corpus.size()) * training.task.epochs;
                CHECK(all > 9);
                training.reset();
                const auto whole = train_skipgram(training.task, 0, all, 1);
                const auto inputs = copy_of(training.inputs), outputs = copy_of(training.outputs);
                CHECK(whole.tokens == 3 * 70'000 && whole.words < whole.tokens && whole.losses > 0);
                for (const float x : inputs)
                    CHECK(std::isfinite(x));
                training.reset();
                training.task.read_ahead = true; // which draws the same, beforehand
                std::uint64_t tokens = 0;
                for (std::size_t at = 0; at < all;) {
                    const std::size_t end = std::min(all, at + 1 + at % 3);
                    tokens += train_skipgram(training.task, at, end, 1).tokens;
                    at = end;
                }
                CHECK(tokens == whole.tokens);
                CHECK(copy_of(training.inputs) == inputs && copy_of(training.outputs) == outputs);
            }
}

void rows_are_read_ahead_before_they_are_touched() {
    for (const bool cbow : {false, true})
        for (const std::size_t more : {0, 4000}) {
            Training training(1500, 4000, more, 1024); // a row is as large as a page
            training.task.cbow = cbow;
            training.task.keep = nullptr;
            training.reset();
            const auto before = copy_of(training.inputs);
            train_skipgram(training.task, 0, 1, 1);
            std::vector<std::int32_t> words;
            for (const std::int32_t id : training.corpus)
                if (id != sentence_end)
                    words.push_back(id);
            SkipGramAhead ahead(training.task);
            ahead.begin(words, random_of(training.task, 0, 0));
            std::vector<PageRange> pages;
            for (const std::size_t end : {1, 700, 701, 1500, 9999})
                for (const PageRange &range : ahead.pages_until(end))
                    pages.push_back(range);
            join(pages);
            const auto is_asked = [&](const float *row) {
                const auto at = reinterpret_cast<std::uintptr_t>(row);
                return std::any_of(pages.begin(), pages.end(), [&](const PageRange &range) {
                    return range.begin <= at && at + 4096 <= range.end;
                });
            };
            std::size_t changed = 0, asked = 0;
            const auto look = [&](const float *rows, std::size_t count, const float *old) {
                for (std::size_t i = 0; i < count; ++i) {
                    const float *const row = rows + 1024 * i;
                    const bool has = !std::equal(row, row + 1024, old + 1024 * i);
                    changed += has;
                    asked += is_asked(row);
                    CHECK(!has || is_asked(row));
                }
            };
            const std::vector<float> zeros(4000 * 1024);
            look(training.outputs.data(), 4000, zeros.data());
            look(training.inputs.data(), 4000 + more, before.data());
            CHECK(changed > 1500 && asked < 7000 && asked < 2 * changed);
        }
}

void a_corpus_of_any_shape_is_trained() {
    for (const std::vector<std::int32_t> &corpus : std::vector<std::vector<std::int32_t>>{
             {}, {-1}, {0}, {0, -1}, {0, 1}, {0, 1, -1}, {-1, -1, 1, 1, 1, -1}, {1, 0, -1, -1, 0}}) {
        Training training(10, 2, 3, 16);
        training.task.corpus = corpus.data();
        training.task.corpus_size = corpus.size();
        training.reset();
        train_skipgram(training.task, 0, skipgram_blocks(corpus.size()) * 3, 1);
        training.task.keep = nullptr;
        training.task.parts = nullptr;
        train_skipgram(training.task, 0, skipgram_blocks(corpus.size()) * 3, 1);
        for (std::size_t i = 0; i < training.inputs.size(); ++i)
            CHECK(std::isfinite(training.inputs.data()[i]));
    }
    // One line without an end: blocks are cut where they must be, and every token is read once.
    Training training(10, 50, 0, 16);
    training.corpus.assign(5 * block_tokens + 17, 3);
    training.task.corpus = training.corpus.data();
    training.task.corpus_size = training.corpus.size();
    training.reset();
    const auto found = train_skipgram(training.task, 0, 6, 1);
    CHECK(found.tokens == training.corpus.size());
}

struct Words {
    std::string bytes = "theaking";
    std::vector<std::int64_t> offsets{0, 3, 4, 8};
    std::vector<std::uint64_t> slots;
    TokenMap map;

    Words() : slots(token_map_slots(3)) {
        const Tokens tokens{reinterpret_cast<const std::uint8_t *>(bytes.data()), bytes.size(),
                            offsets.data(), 3};
        std::vector<std::int64_t> first(3);
        build_token_map(tokens, slots.data(), slots.size(), first.data());
        map = {tokens, slots.data(), slots.size()};
    }
    EncodedText encode(const std::string &text, bool last, bool ended) {
        // A copy of its own size, so that a sanitizer sees each byte beyond.
        const std::vector<std::uint8_t> exact(text.begin(), text.end());
        return encode_text(map, exact.data(), exact.size(), last, ended);
    }
};

void text_becomes_ids() {
    Words words;
    using Ids = std::vector<std::int32_t>;
    const auto all = words.encode("\n\n the king\t a\r\n\nno such word\nking the", true, true);
    CHECK(all.ids == (Ids{0, 2, 1, -1, 2, 0, -1}) && all.used == 38);
    const auto part = words.encode("king\nthe ki", false, true);
    CHECK(part.ids == (Ids{2, -1, 0}) && part.used == 9);
    CHECK(words.encode("\na", true, false).ids == (Ids{-1, 1, -1}));
    CHECK(words.encode("", true, true).ids.empty());
    CHECK(words.encode("", true, false).ids == Ids{-1});
    CHECK(words.encode("kin", false, false).used == 0);
}

void long_texts_are_cut_like_short_ones() {
    Words words;
    std::mt19937 random(5);
    std::string text;
    std::vector<std::int32_t> wanted;
    const char *const names[] = {"the", "a", "king", "queen", "thethe"};
    while (text.size() < 700'000) {
        const auto word = static_cast<std::int32_t>(random() % 5);
        text += names[word];
        if (word < 3)
            wanted.push_back(word);
        text += random() % 7 == 0 ? '\n' : ' ';
        if (text.back() == '\n' && !wanted.empty() && wanted.back() != sentence_end)
            wanted.push_back(sentence_end);
    }
    if (wanted.back() != sentence_end)
        wanted.push_back(sentence_end);
    for (const int threads : {1, 2, 5}) {
        set_num_threads(threads);
        CHECK(words.encode(text, true, true).ids == wanted);
    }
    set_num_threads(1);
}

#if defined(__linux__)
/// A corpus that the memory does not hold: of its file just the blocks that are trained are read, and the
/// next ones beforehand.
void of_a_file_the_next_blocks_are_asked_for_and_no_others() {
    Training training(100 * block_tokens, 50, 0, 16);
    training.task.epochs = 1;
    training.reset();
    const std::size_t bytes = training.corpus.size() * sizeof(std::int32_t);
    std::FILE *const file = std::tmpfile();
    CHECK(file != nullptr && std::fwrite(training.corpus.data(), 1, bytes, file) == bytes);
    CHECK(std::fflush(file) == 0 && fsync(fileno(file)) == 0);
    void *const place = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fileno(file), 0);
    CHECK(place != MAP_FAILED);
    const char *const data = static_cast<const char *>(place);
    training.task.corpus = static_cast<const std::int32_t *>(place);
    posix_fadvise(fileno(file), 0, 0, POSIX_FADV_DONTNEED);
    if (!is_resident(data + bytes / 2)) { // else the file lies in memory
        const SkipGramOrder order(training.task);
        constexpr std::size_t trained = 5, ahead = 4;
        train_skipgram(training.task, 0, trained, 1);
        const auto middle = [&](std::size_t k) {
            return data + (order.block(0, k) * block_tokens + block_tokens / 2) * sizeof(std::int32_t);
        };
        for (std::size_t k = 0; k < trained + ahead; ++k) {
            for (int waits = 0; waits < 1000 && !is_resident(middle(k)); ++waits) // it is on its way
                std::this_thread::sleep_for(std::chrono::milliseconds(10));
            CHECK(is_resident(middle(k)));
        }
        std::size_t found = 0;
        for (std::size_t at = 0; at < bytes; at += small_page_bytes())
            found += is_resident(data + at) ? small_page_bytes() : 0;
        CHECK(found <= (trained + ahead) * (block_tokens * sizeof(std::int32_t) + 4 * small_page_bytes()));
    }
    munmap(place, bytes);
    std::fclose(file);
}
#endif

} // namespace

int main() {
#if defined(__linux__)
    of_a_file_the_next_blocks_are_asked_for_and_no_others();
#endif
    an_epoch_has_each_block_once_and_all_parts_at_all_times();
    a_step_is_the_textbook_formula();
    the_sigmoid_holds_at_its_ends();
    for (const double power : {-4.0, -0.5, 0.0, 0.25, 0.75, 4.0})
        draws_come_as_often_as_they_should(power);
    a_training_is_the_same_in_any_slices();
    rows_are_read_ahead_before_they_are_touched();
    a_corpus_of_any_shape_is_trained();
    text_becomes_ids();
    long_texts_are_cut_like_short_ones();
}
