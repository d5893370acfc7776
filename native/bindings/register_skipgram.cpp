#include "bindings.h"

#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include "core/cpu.h"
#include "core/skipgram.h"
#include "core/skipgram_corpus.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

template <class T> using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Owned = nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>;

std::pair<std::size_t, Owned> encode(const Vector<const std::uint8_t> &data,
                                     const Vector<const std::int64_t> &offsets,
                                     const Vector<const std::uint64_t> &slots,
                                     const Vector<const std::uint8_t> &text, bool last, bool ended) {
    if (offsets.shape(0) == 0)
        throw nb::value_error("expected one offset more than there are tokens, got none");
    const TokenMap map{
        {data.data(), data.shape(0), offsets.data(), offsets.shape(0) - 1}, slots.data(), slots.shape(0)};
    EncodedText found = [&] {
        const ReleasedGil free;
        return encode_text(map, text.data(), text.shape(0), last, ended);
    }();
    auto *const moved = new std::vector<std::int32_t>(std::move(found.ids));
    const nb::capsule owner(moved,
                            [](void *p) noexcept { delete static_cast<std::vector<std::int32_t> *>(p); });
    return {found.used, Owned(moved->data(), {moved->size()}, owner)};
}

void check_rows(const Rows &rows, std::size_t count) {
    if (rows.shape(0) != count || rows.shape(1) == 0 || rows.shape(1) % row_step != 0 ||
        reinterpret_cast<std::uintptr_t>(rows.data()) % 64 != 0)
        throw nb::value_error("expected a row for each word, padded and aligned");
}

/// Arrays that live as long as the training, checked once.
class Trainer {
public:
    Trainer(Vector<const std::int32_t> corpus, Rows inputs, Rows outputs, Vector<const std::int64_t> counts,
            std::optional<Vector<const std::uint32_t>> keep, std::optional<Vector<const std::int64_t>> parts,
            std::optional<Vector<const std::int64_t>> part_offsets, bool read_ahead, bool cbow,
            std::size_t window, std::size_t negative, double negative_power, std::size_t shared_by,
            std::size_t epochs, double rate, double final_rate, std::uint64_t seed)
        : corpus_(std::move(corpus)), inputs_(std::move(inputs)), outputs_(std::move(outputs)),
          keep_(std::move(keep)), parts_(std::move(parts)), part_offsets_(std::move(part_offsets)) {
        const std::size_t words = counts.shape(0);
        check_rows(outputs_, words);
        check_rows(inputs_, parts_ ? inputs_.shape(0) : words);
        if (inputs_.shape(1) != outputs_.shape(1))
            throw nb::value_error("expected rows of one length");
        if (words < 2 || words > std::size_t{0x7fffffff} || window < 1 || window > 10'000 || negative < 1 ||
            negative >= most_outputs || !(std::abs(negative_power) <= 4) || shared_by < 1 ||
            shared_by > most_inputs || epochs < 1)
            throw nb::value_error("expected numbers that training can have");
        if (keep_ && keep_->shape(0) != words)
            throw nb::value_error("expected one number a word");
        for (std::size_t i = 0; i < corpus_.shape(0); ++i)
            if (corpus_.data()[i] != sentence_end &&
                static_cast<std::uint64_t>(static_cast<std::int64_t>(corpus_.data()[i])) >= words)
                throw nb::value_error("expected ids of words");
        if (parts_) {
            if (!part_offsets_ || part_offsets_->shape(0) != words + 1 || part_offsets_->data()[0] != 0 ||
                part_offsets_->data()[words] != static_cast<std::int64_t>(parts_->shape(0)))
                throw nb::value_error("expected where the rows of each word begin");
            for (std::size_t i = 0; i < words; ++i)
                if (part_offsets_->data()[i] >= part_offsets_->data()[i + 1])
                    throw nb::value_error("expected a row for each word");
            for (std::size_t i = 0; i < parts_->shape(0); ++i)
                if (static_cast<std::uint64_t>(parts_->data()[i]) >= inputs_.shape(0))
                    throw nb::value_error("expected rows that are there");
        }
        alias_.resize(words);
        make_alias(counts.data(), words, negative_power, alias_.data());
        task_.corpus = corpus_.data();
        task_.corpus_size = corpus_.shape(0);
        task_.num_words = words;
        task_.inputs = inputs_.data();
        task_.outputs = outputs_.data();
        task_.columns = inputs_.shape(1);
        task_.parts = parts_ ? parts_->data() : nullptr;
        task_.part_offsets = parts_ ? part_offsets_->data() : nullptr;
        task_.keep = keep_ ? keep_->data() : nullptr;
        task_.negatives = alias_.data();
        task_.read_ahead = read_ahead;
        task_.cbow = cbow;
        task_.window = window;
        task_.num_negatives = negative;
        task_.shared_by = shared_by;
        task_.epochs = epochs;
        task_.rate = rate;
        task_.final_rate = final_rate;
        task_.seed = seed;
    }

    std::size_t blocks() const { return skipgram_blocks(task_.corpus_size); }

    std::tuple<std::uint64_t, std::uint64_t, double, std::uint64_t> train(std::size_t begin, std::size_t end,
                                                                          std::size_t threads) const {
        if (begin > end || end > blocks() * task_.epochs)
            throw nb::value_error("expected blocks that there are");
        const ReleasedGil free;
        const SkipGramProgress found = train_skipgram(task_, begin, end, threads);
        return {found.tokens, found.words, found.loss, found.losses};
    }

private:
    Vector<const std::int32_t> corpus_;
    Rows inputs_, outputs_;
    std::optional<Vector<const std::uint32_t>> keep_;
    std::optional<Vector<const std::int64_t>> parts_, part_offsets_;
    std::vector<AliasEntry> alias_;
    SkipGram task_;
};

} // namespace

void register_skipgram(nb::module_ &m) {
    m.def("encode_text", &encode, "data"_a.noconvert(), "offsets"_a.noconvert(), "slots"_a.noconvert(),
          "text"_a.noconvert(), "last"_a, "ended"_a,
          "(bytes used, ids of the words, -1 for each end of a line that has any); words that the map lacks "
          "are left out.");
    nb::class_<Trainer>(m, "SkipGram", "A training: a corpus of ids, and the rows that it changes.")
        .def(nb::init<Vector<const std::int32_t>, Rows, Rows, Vector<const std::int64_t>,
                      std::optional<Vector<const std::uint32_t>>, std::optional<Vector<const std::int64_t>>,
                      std::optional<Vector<const std::int64_t>>, bool, bool, std::size_t, std::size_t, double,
                      std::size_t, std::size_t, double, double, std::uint64_t>(),
             nb::kw_only(), "corpus"_a.noconvert(), "inputs"_a.noconvert(), "outputs"_a.noconvert(),
             "counts"_a.noconvert(), "keep"_a.none().noconvert(), "parts"_a.none().noconvert(),
             "part_offsets"_a.none().noconvert(), "read_ahead"_a, "cbow"_a, "window"_a, "negative"_a,
             "negative_power"_a, "shared_by"_a, "epochs"_a, "rate"_a, "final_rate"_a, "seed"_a)
        .def_prop_ro("blocks", &Trainer::blocks, "How many blocks an epoch has.")
        .def("train", &Trainer::train, "begin"_a, "end"_a, "threads"_a,
             "Trains blocks, counted over all epochs; (tokens read, centre words trained, loss of a sample, "
             "pairs of the sample).");
}

} // namespace shardwise
