#include "core/skipgram_corpus.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "core/skipgram.h"
#include "core/threads.h"
#include "core/token_find.h"

namespace shardwise {
namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 17; // less is not worth a thread
constexpr std::size_t together = 256;                     // words that are looked up at once
constexpr std::int64_t unknown = -2;

bool is_space(std::uint8_t byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

void append(std::vector<std::int32_t> &ids, std::int32_t id, bool ended) {
    const bool repeated = ids.empty() ? ended : ids.back() == sentence_end;
    if (id != sentence_end || !repeated)
        ids.push_back(id);
}

/// The ids of the words that begin, and of the lines that end, in [begin, end).
std::vector<std::int32_t> encode_piece(TokenFinder &finder, const std::uint8_t *text, std::size_t size,
                                       std::size_t begin, std::size_t end) {
    std::vector<std::int32_t> ids;
    ids.reserve((end - begin) / 4);
    TokenSpan words[together];
    std::int64_t found[together];
    bool closes[together]; // the line, before the word
    std::size_t count = 0;
    const auto look_up = [&] {
        finder.find(words, count, found, unknown);
        for (std::size_t i = 0; i < count; ++i) {
            if (closes[i])
                append(ids, sentence_end, false);
            if (found[i] != unknown)
                ids.push_back(static_cast<std::int32_t>(found[i]));
        }
        count = 0;
    };
    std::size_t at = begin;
    if (at > 0 && !is_space(text[at - 1])) // the word of the piece before
        while (at < end && !is_space(text[at]))
            ++at;
    bool line_ends = false;
    while (at < end) {
        if (is_space(text[at])) {
            line_ends = line_ends || text[at] == '\n';
            ++at;
            continue;
        }
        const std::size_t first = at;
        while (at < size && !is_space(text[at]))
            ++at;
        words[count] = {text + first, at - first};
        closes[count++] = std::exchange(line_ends, false);
        if (count == together)
            look_up();
    }
    look_up();
    if (line_ends)
        append(ids, sentence_end, false);
    return ids;
}

} // namespace

EncodedText encode_text(const TokenMap &map, const std::uint8_t *text, std::size_t size, bool last,
                        bool ended) {
    std::size_t used = size;
    while (!last && used > 0 && !is_space(text[used - 1]))
        --used;
    TokenFinder finder(map, used / 4 + 1);
    std::vector<std::pair<std::size_t, std::vector<std::int32_t>>> pieces;
    std::mutex mutex;
    parallel_for(used, piece_bytes, [&](std::size_t begin, std::size_t end) {
        auto ids = encode_piece(finder, text, used, begin, end);
        const std::lock_guard lock(mutex);
        pieces.emplace_back(begin, std::move(ids));
    });
    std::sort(pieces.begin(), pieces.end(), [](const auto &a, const auto &b) { return a.first < b.first; });
    EncodedText result{{}, used};
    for (const auto &[begin, ids] : pieces) {
        if (ids.empty())
            continue;
        append(result.ids, ids[0], ended);
        result.ids.insert(result.ids.end(), ids.begin() + 1, ids.end());
    }
    if (last)
        append(result.ids, sentence_end, ended);
    return result;
}

} // namespace shardwise
