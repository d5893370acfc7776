#include "core/fingerprint.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

using namespace shardwise;

namespace {

/// A copy in an array of its exact size, so that a sanitizer sees every step beyond it.
std::unique_ptr<std::uint8_t[]> exact(const std::string &text) {
    auto bytes = std::make_unique<std::uint8_t[]>(text.size());
    std::copy(text.begin(), text.end(), bytes.get());
    return bytes;
}

std::uint64_t fingerprint(const std::string &text) {
    return fingerprint64(exact(text).get(), text.size());
}

/// FNV-1a over the hashes of the first `count` lengths of the bytes 0, 1, 2, ...: one number for all of them,
/// the expected one made with TensorFlow 2.21.
template <class Hash> std::uint64_t digest(std::size_t count, const Hash &hash) {
    std::string text;
    std::uint64_t all = 14695981039346656037u;
    for (std::size_t size = 0; size < count; ++size) {
        std::uint64_t value = hash(text);
        for (int i = 0; i < 8; ++i, value >>= 8)
            all = (all ^ (value & 0xff)) * 1099511628211u;
        text.push_back(static_cast<char>(size));
    }
    return all;
}

void test_fingerprint() {
    CHECK(fingerprint("") == 0x9ae16a3b2f90404fu);
    CHECK(fingerprint("A") == 0xeabf3252cc3bf414u);
    CHECK(fingerprint("king") == 0xbaf03afb12b5d66eu);
    CHECK(fingerprint("crimson") == 0x796de073a969f6d2u);
    CHECK(fingerprint("12345678") == 0x2f99d2664a0fb6eau);
    CHECK(fingerprint("hello world") == 0x588fb7478bd6b01bu);
    CHECK(digest(600, fingerprint) == 0x9b2d76ecff23ade9u);
}

void test_siphash() {
    // The paper's own vector, and the same for the bytes 0, 1, 2, ... of other lengths.
    const SipKey key{0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    const auto hash = [&](const std::string &text) { return siphash64(key, exact(text).get(), text.size()); };
    std::string text;
    for (char c = 0; c < 15; ++c)
        text.push_back(c);
    CHECK(hash(text) == 0xa129ca6149be45e5u);
    CHECK(hash("") == 0x726fdb47dd0e0e31u);
    CHECK(digest(600, hash) == 0x39dec66a620c253fu);
}

void test_buckets() {
    const std::string text = "kingcrimson";
    const auto bytes = exact(text);
    std::vector<std::int64_t> offsets{0, 4, 11, 11}, buckets(3, -7);
    const Tokens tokens{bytes.get(), text.size(), offsets.data(), 3};
    hash_buckets(tokens, 5, nullptr, buckets.data());
    CHECK((buckets == std::vector<std::int64_t>{3, 4, static_cast<std::int64_t>(fingerprint("") % 5)}));
    const SipKey key{1, 2};
    hash_buckets(tokens, std::numeric_limits<std::int64_t>::max(), &key, buckets.data());
    CHECK(buckets[1] == static_cast<std::int64_t>(siphash64(key, bytes.get() + 4, 7) %
                                                  std::numeric_limits<std::int64_t>::max()));
    hash_buckets({nullptr, 0, offsets.data(), 0}, 5, nullptr, nullptr);
    CHECK_THROWS(hash_buckets(tokens, 0, nullptr, buckets.data()), std::invalid_argument);
    for (const std::int64_t wild :
         {std::int64_t{-1}, std::int64_t{12}, std::numeric_limits<std::int64_t>::min(),
          std::numeric_limits<std::int64_t>::max()}) {
        offsets[1] = wild;
        CHECK_THROWS(hash_buckets(tokens, 5, nullptr, buckets.data()), std::invalid_argument);
    }
}

} // namespace

int main() {
    test_fingerprint();
    test_siphash();
    test_buckets();
    return 0;
}
