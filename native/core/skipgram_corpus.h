#pragma once
// Text as the ids of its words, which a training reads again and again.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/token_map.h"

namespace shardwise {

/// The ids of the words of a block of text, sentence_end for each line that has any; words that the map lacks
/// are left out. Words are cut as TokenCounts cuts them.
struct EncodedText {
    std::vector<std::int32_t> ids;
    std::size_t used; // bytes: all of the last block of a text, else those up to the last white space
};

/// `ended` says whether what was encoded before ended a sentence, or is nothing. The last block ends one.
EncodedText encode_text(const TokenMap &map, const std::uint8_t *text, std::size_t size, bool last,
                        bool ended);

} // namespace shardwise
