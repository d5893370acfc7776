#pragma once
// Tokens as the core takes them, for tests.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/tokens.h"

/// Owns tokens in arrays of their exact sizes, so that a sanitizer sees every step beyond them.
struct Packed {
    std::unique_ptr<std::uint8_t[]> bytes;
    std::vector<std::int64_t> offsets{0};
    std::size_t size = 0;

    explicit Packed(const std::vector<std::string> &tokens) {
        std::string all;
        for (const std::string &token : tokens) {
            all += token;
            offsets.push_back(static_cast<std::int64_t>(all.size()));
        }
        size = all.size();
        bytes = std::make_unique<std::uint8_t[]>(size);
        std::copy(all.begin(), all.end(), bytes.get());
    }
    Packed(const Packed &other)
        : bytes(std::make_unique<std::uint8_t[]>(other.size)), offsets(other.offsets), size(other.size) {
        std::copy_n(other.bytes.get(), size, bytes.get());
    }
    Packed &operator=(const Packed &other) {
        Packed copy(other);
        std::swap(bytes, copy.bytes);
        offsets = copy.offsets;
        size = copy.size;
        return *this;
    }
    shardwise::Tokens view() const { return {bytes.get(), size, offsets.data(), offsets.size() - 1}; }
};
