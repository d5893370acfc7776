#include "core/text.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/decimal.h"
#include "core/threads.h"

namespace shardwise {

static_assert(std::endian::native == std::endian::little, "binary rows are little-endian");

namespace {

constexpr std::size_t chunk_bytes = std::size_t{1} << 20;

bool is_separator(char c) {
    return c == ' ' || c == '\t';
}
bool is_blank(char c) {
    return is_separator(c) || c == '\r' || c == '\n';
}
std::size_t length(const char *begin, const char *end) {
    return static_cast<std::size_t>(end - begin);
}

[[noreturn]] void fail(const std::string &message) {
    throw std::invalid_argument(message);
}

const char *find(const char *begin, const char *end, char wanted) {
    if (begin == end)
        return end;
    const void *found = std::memchr(begin, wanted, length(begin, end));
    return found == nullptr ? end : static_cast<const char *>(found);
}

/// For messages: short, and ASCII whatever the file holds.
std::string quoted(const char *begin, const char *end) {
    constexpr std::size_t most = 40;
    constexpr const char *hex = "0123456789abcdef";
    std::string text = "'";
    for (const char *p = begin; p != end && length(begin, p) < most; ++p) {
        const auto byte = static_cast<unsigned char>(*p);
        if (byte >= 0x20 && byte < 0x7f)
            text += *p;
        else
            (text += "\\x").append({hex[byte >> 4], hex[byte & 15]});
    }
    return text + (length(begin, end) > most ? "'..." : "'");
}

std::string line_of(const char *data, std::size_t at) {
    return "line " + std::to_string(1 + std::count(data, data + at, '\n'));
}

// ---- lines ----

/// The inner sums fit a byte so that the compiler makes vectors of them.
std::size_t count_separators(const char *p, const char *end) {
    std::size_t total = 0;
    while (p != end) {
        const std::size_t step = std::min<std::size_t>(length(p, end), 240);
        std::uint8_t sum = 0;
        for (std::size_t i = 0; i < step; ++i)
            sum = static_cast<std::uint8_t>(sum + ((p[i] == ' ') | (p[i] == '\t')));
        total += sum;
        p += step;
    }
    return total;
}

const char *skip_separators(const char *p, const char *end) {
    while (p != end && is_separator(*p))
        ++p;
    return p;
}

const char *field_end(const char *p, const char *end) {
    while (p != end && !is_blank(*p))
        ++p;
    return p;
}

const char *trim_line(const char *begin, const char *end) {
    if (end != begin && end[-1] == '\r')
        --end;
    while (end != begin && is_separator(end[-1]))
        --end;
    return end;
}

std::size_t count_fields(const char *p, const char *end) {
    std::size_t fields = p != end && is_separator(*p) ? 1 : 0; // an empty token
    for (p = skip_separators(p, end); p != end; p = skip_separators(p, end), ++fields)
        while (p != end && !is_separator(*p))
            ++p;
    return fields;
}

bool is_fraction(const char *begin, const char *end) {
    float ignored;
    return std::any_of(begin, end, [](char c) { return c == '.' || c == 'e' || c == 'E'; }) &&
           parse_float(begin, end, ignored);
}

/// Where the values of the line [begin, end) start; nullptr for a line that has not a token and `dim` values.
const char *find_values(const char *begin, const char *end, std::size_t dim) {
    if (count_separators(begin, end) == dim)
        return std::find_if(begin, end, is_separator) + 1;
    const char *p = end;
    for (std::size_t k = 0; k < dim; ++k) {
        if (k > 0)
            while (p != begin && is_separator(p[-1]))
                --p;
        const char *const stop = p;
        while (p != begin && !is_separator(p[-1]))
            --p;
        if (p == begin || p == stop)
            return nullptr;
    }
    const char *last = p - 1; // the last field of the token, if it has several
    while (last != begin && !is_separator(last[-1]))
        --last;
    return last != begin && is_fraction(last, p - 1) ? nullptr : p;
}

struct Lines {
    RowIndex rows;
    const char *bad_line = nullptr;
};

/// Indexes the lines that start in [begin, end).
void index_lines(const char *begin, const char *end, const char *limit, std::size_t dim, std::size_t max_rows,
                 const char *data, Lines &lines) {
    const char *line = begin;
    while (line < end && lines.rows.token_starts.size() < max_rows) {
        const char *const newline = find(line, limit, '\n');
        const char *const values = find_values(line, trim_line(line, newline), dim);
        if (values == nullptr) {
            lines.bad_line = line;
            return;
        }
        lines.rows.token_starts.push_back(line - data);
        lines.rows.value_starts.push_back(values - data);
        line = newline == limit ? limit : newline + 1;
    }
}

[[noreturn]] void fail_line(const char *data, std::size_t size, const char *line, std::size_t dim) {
    const char *const end = trim_line(line, find(line, data + size, '\n'));
    const std::size_t fields = count_fields(line, end);
    fail(line_of(data, length(data, line)) + ": expected a token and " + std::to_string(dim) +
         " values, got " + std::to_string(fields) + " fields: " + quoted(line, end));
}

// ---- values ----

/// Parses the row at `start`; returns nullptr, or where it went wrong, with `done` values read.
const char *parse_row(const char *p, const char *limit, std::size_t dim, float *out, std::size_t &done) {
    for (done = 0; done < dim; ++done) {
        if (done > 0) {
            if (p == limit || !is_separator(*p))
                return p;
            p = skip_separators(p + 1, limit);
        }
        const char *const stop = decimal::scan_float(p, limit, out[done]);
        if (stop == nullptr || (stop != limit && !is_blank(*stop)))
            return p;
        p = stop;
    }
    p = skip_separators(p, limit);
    if (p != limit && *p == '\r')
        ++p;
    return p == limit || *p == '\n' ? nullptr : p;
}

[[noreturn]] void fail_row(const char *data, std::size_t size, const char *start, std::size_t dim) {
    std::vector<float> row(dim);
    std::size_t done = 0;
    const char *const bad = parse_row(start, data + size, dim, row.data(), done);
    const std::string where = line_of(data, length(data, start));
    const char *const stop = field_end(bad, data + size);
    if (done == dim)
        fail(where + ": expected the end of the line after " + std::to_string(dim) + " values, got " +
             quoted(bad, stop));
    if (bad == stop)
        fail(where + ": expected " + std::to_string(dim) + " values, got " + std::to_string(done));
    fail(where + ", value " + std::to_string(done + 1) + " of " + std::to_string(dim) +
         ": expected a number, got " + quoted(bad, stop));
}

/// A position that came from outside, checked.
const char *checked(const char *data, std::size_t size, std::int64_t position, std::size_t needed) {
    if (position < 0 || static_cast<std::uint64_t>(position) > size ||
        size - static_cast<std::size_t>(position) < needed)
        fail("expected " + std::to_string(needed) + " bytes at position " + std::to_string(position) +
             ", the data has " + std::to_string(size));
    return data + position;
}

} // namespace

bool parse_float(const char *begin, const char *end, float &out) {
    return decimal::scan_float(begin, end, out) == end && begin != end;
}

std::size_t text_end(const char *data, std::size_t size) {
    while (size > 0 && is_blank(data[size - 1]))
        --size;
    return size;
}

RowIndex index_text(const char *data, std::size_t size, std::size_t begin, std::size_t end, std::size_t dim,
                    std::size_t max_rows) {
    if (begin > end || end > size || dim == 0)
        fail("expected begin <= end <= size, and at least one value a row");
    const std::size_t chunks = (end - begin + chunk_bytes - 1) / chunk_bytes;
    std::vector<Lines> parts(chunks);
    parallel_for(chunks, 1, [&](std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i) {
            const std::size_t from = begin + i * chunk_bytes;
            const char *const stop = data + std::min(end, from + chunk_bytes);
            const char *line = data + from;
            // A chunk owns the lines that start in it.
            if (i > 0)
                line = std::min(stop, find(line - 1, stop - 1, '\n') + 1);
            index_lines(line, stop, data + size, dim, max_rows, data, parts[i]);
        }
    });
    RowIndex index{{}, {}, begin};
    for (const Lines &part : parts) {
        const std::size_t room = max_rows - index.token_starts.size();
        const std::size_t take = std::min(room, part.rows.token_starts.size());
        index.token_starts.insert(index.token_starts.end(), part.rows.token_starts.begin(),
                                  part.rows.token_starts.begin() + static_cast<std::ptrdiff_t>(take));
        index.value_starts.insert(index.value_starts.end(), part.rows.value_starts.begin(),
                                  part.rows.value_starts.begin() + static_cast<std::ptrdiff_t>(take));
        if (take == room)
            break;
        if (part.bad_line != nullptr)
            fail_line(data, size, part.bad_line, dim);
    }
    if (!index.value_starts.empty()) {
        const char *const newline = find(data + index.value_starts.back(), data + size, '\n');
        index.next = std::min(size, length(data, newline) + 1);
    }
    return index;
}

void parse_rows(const char *data, std::size_t size, const std::int64_t *starts, std::size_t count,
                std::size_t dim, float *out, std::size_t stride) {
    constexpr std::size_t grain_bytes = 1 << 16;
    std::atomic<std::size_t> first_bad{count};
    parallel_for(count, std::max<std::size_t>(1, grain_bytes / (8 * dim + 1)),
                 [&](std::size_t begin, std::size_t end) {
                     std::size_t done = 0;
                     for (std::size_t row = begin; row < end; ++row) {
                         const char *const start = checked(data, size, starts[row], 0);
                         if (parse_row(start, data + size, dim, out + row * stride, done) == nullptr)
                             continue;
                         std::size_t seen = first_bad.load();
                         while (row < seen && !first_bad.compare_exchange_weak(seen, row)) {
                         }
                         return;
                     }
                 });
    if (first_bad.load() < count)
        fail_row(data, size, data + starts[first_bad.load()], dim);
}

RowIndex index_binary(const char *data, std::size_t size, std::size_t begin, std::size_t dim,
                      std::size_t max_rows, std::size_t max_bytes, std::size_t first_row) {
    if (begin > size || dim == 0 || dim > size)
        fail("expected begin <= size, and 1 to size values a row");
    const std::size_t row_bytes = 4 * dim;
    const char *const limit = data + size;
    const char *p = data + begin;
    RowIndex index{{}, {}, begin};
    while (index.token_starts.size() < max_rows && length(data, p) - begin < max_bytes) {
        while (p != limit && *p == '\n')
            ++p;
        if (p == limit)
            break;
        const char *const space = find(p, limit, ' ');
        const auto where = [&] {
            return "row " + std::to_string(first_row + index.token_starts.size()) + ", byte " +
                   std::to_string(p - data) + ": ";
        };
        if (space == limit)
            fail(where() + "expected a token and a space, got the end of the file after " + quoted(p, limit));
        if (length(space, limit) - 1 < row_bytes)
            fail(where() + "expected " + std::to_string(row_bytes) + " bytes of values after the token " +
                 quoted(p, space) + ", got " + std::to_string(limit - space - 1));
        index.token_starts.push_back(p - data);
        index.value_starts.push_back(space + 1 - data);
        p = space + 1 + row_bytes;
    }
    index.next = length(data, p);
    return index;
}

void copy_rows(const char *data, std::size_t size, const std::int64_t *starts, std::size_t count,
               std::size_t dim, float *out, std::size_t stride) {
    const std::size_t row_bytes = dim * sizeof(float);
    parallel_for(count, std::max<std::size_t>(1, (1 << 18) / (row_bytes + 1)),
                 [&](std::size_t begin, std::size_t end) {
                     for (std::size_t row = begin; row < end; ++row)
                         std::memcpy(out + row * stride, checked(data, size, starts[row], row_bytes),
                                     row_bytes);
                 });
}

PackedTokens gather_tokens(const char *data, std::size_t size, const std::int64_t *token_starts,
                           const std::int64_t *value_starts, std::size_t count) {
    PackedTokens packed{{}, std::vector<std::int64_t>(count + 1)};
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t begin = token_starts[i], end = value_starts[i];
        if (begin < 0 || begin >= end || static_cast<std::uint64_t>(end) > size)
            fail("token " + std::to_string(i) + " does not lie in the data");
        packed.offsets[i + 1] = packed.offsets[i] + (end - 1 - begin);
    }
    packed.bytes.resize(static_cast<std::size_t>(packed.offsets[count]));
    for (std::size_t i = 0; i < count; ++i)
        std::copy(data + token_starts[i], data + value_starts[i] - 1,
                  packed.bytes.begin() + packed.offsets[i]);
    return packed;
}

} // namespace shardwise
