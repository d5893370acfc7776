#include "core/mapped_file.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "core/platform.h"

#if SHARDWISE_POSIX
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "check.h"

using namespace shardwise;

#if !SHARDWISE_POSIX
int main() { // all is read from memory
    const char content[] = "rows";
    const MappedFile mapped(3, content, sizeof content);
    CHECK(!mapped.is_open());
    char found[4];
    mapped.read(content + 1, 4, found);
    CHECK(std::memcmp(found, "ows", 4) == 0);
    return 0;
}
#else

namespace {

constexpr std::size_t size = 4096;

struct Content {
    std::array<std::uint8_t, 2 * size> bytes; // those of the file, and what lies behind them in memory
    std::FILE *file = std::tmpfile();
    int descriptor = fileno(file);

    Content() {
        std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
        CHECK(std::fwrite(bytes.data(), 1, size, file) == size && std::fflush(file) == 0);
    }
    ~Content() { std::fclose(file); }

    /// Whether what is read at a place is what the file was written with.
    bool reads(const MappedFile &mapped, std::size_t begin, std::size_t count) const {
        std::array<std::uint8_t, size> found{};
        mapped.read(bytes.data() + begin, count, found.data());
        return std::memcmp(found.data(), bytes.data() + begin, count) == 0;
    }
};

void test_the_map_is_not_touched() {
    const Content content;
    void *const nothing = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(nothing != MAP_FAILED);
    {
        const MappedFile mapped(content.descriptor, nothing, size);
        CHECK(mapped.is_open());
        std::uint8_t found[8];
        mapped.read(static_cast<const std::uint8_t *>(nothing) + 100, sizeof found, found);
        CHECK(std::memcmp(found, content.bytes.data() + 100, sizeof found) == 0);
    }
    munmap(nothing, size);
}

void test_what_the_file_does_not_give() {
    Content content;
    const MappedFile mapped(content.descriptor, content.bytes.data(), size);
    CHECK(content.reads(mapped, 0, size) && content.reads(mapped, size - 1, 1));
    CHECK(content.reads(mapped, size - 1, 2) && content.reads(mapped, size, 8));
    CHECK(ftruncate(content.descriptor, 100) == 0);
    CHECK(content.reads(mapped, 96, 8) && content.reads(mapped, 200, 8));
    const MappedFile none(-1, content.bytes.data(), size);
    CHECK(!none.is_open() && content.reads(none, 0, 8));
}

void test_a_descriptor_that_others_close() {
    const Content content, other;
    const int next = dup(content.descriptor); // the number that comes next
    close(next);
    {
        const MappedFile mapped(content.descriptor, content.bytes.data(), size);
        CHECK(mapped.is_open() && (fcntl(next, F_GETFD) & FD_CLOEXEC) != 0);
        close(next);
        CHECK(!mapped.is_open() && content.reads(mapped, 0, 8));
        CHECK(dup2(other.descriptor, next) == next && !mapped.is_open());
    }
    CHECK(close(next) == 0); // it is not ours to close
    {
        const MappedFile mapped(content.descriptor, content.bytes.data(), size);
    }
    CHECK(close(next) == -1);
}

} // namespace

int main() {
    test_the_map_is_not_touched();
    test_what_the_file_does_not_give();
    test_a_descriptor_that_others_close();
    return 0;
}

#endif
