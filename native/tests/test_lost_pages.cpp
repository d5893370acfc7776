#include "core/lost_pages.h"

#include <cstdio>
#include <cstring>
#include <vector>

#if !defined(_WIN32)
#include <csignal>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "check.h"
#include "core/threads.h"

using namespace shardwise;

#if defined(_WIN32)
int main() {
    return 0;
}
#else

namespace {

/// A mapped file of some pages, of which each byte is 7.
struct File {
    std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::size_t bytes;
    std::FILE *file = std::tmpfile();
    unsigned char *data;

    explicit File(std::size_t pages) : bytes(pages * page) {
        const std::vector<unsigned char> content(bytes, 7);
        CHECK(std::fwrite(content.data(), 1, bytes, file) == bytes && std::fflush(file) == 0);
        void *const map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
        CHECK(map != MAP_FAILED);
        data = static_cast<unsigned char *>(map);
    }
    ~File() {
        munmap(data, bytes);
        std::fclose(file);
    }
    void cut(std::size_t pages) const {
        CHECK(ftruncate(fileno(file), static_cast<off_t>(pages * page)) == 0);
    }
};

volatile unsigned char sink;

unsigned long sum(const volatile unsigned char *begin, std::size_t bytes) {
    unsigned long total = 0;
    for (std::size_t k = 0; k < bytes; ++k)
        total += begin[k];
    return total;
}

/// How a child ends that does this.
template <class F> int end_of(F &&work) {
    const pid_t child = fork();
    if (child == 0) {
        work();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void test_whole_files() {
    const File file(4);
    Maps maps;
    maps.add(file.data, file.bytes);
    {
        const Watched watched(maps);
        CHECK(sum(file.data, file.bytes) == 7 * file.bytes);
    }
    CHECK(maps.lost() == Maps::none);
}

void test_a_file_that_was_cut() {
    const File whole(2);
    const File file(8);
    Maps maps;
    maps.add(whole.data, whole.bytes);
    maps.add(file.data, file.bytes);
    file.cut(3);
    {
        const Watched watched(maps);
        CHECK(sum(file.data + 5 * file.page, 1) == 0); // backwards, too
        CHECK(sum(file.data, file.bytes) == 7 * 3 * file.page);
        CHECK(sum(whole.data, whole.bytes) == 7 * whole.bytes);
    }
    CHECK(maps.lost() == 1);
    CHECK(sum(file.data, 3 * file.page) == 7 * 3 * file.page); // what is there can be read
    // Again, watched: nothing ends; not watched: nobody takes zeros for what was there.
    {
        const Watched watched(maps);
        (void)sum(file.data, file.bytes);
    }
    CHECK(maps.lost() == 1);
    const int end = end_of([&] { sink = file.data[6 * file.page]; });
    CHECK(end != 0);
}

void test_threads_of_the_pool() {
    const File file(64);
    Maps maps;
    maps.add(file.data, file.bytes);
    file.cut(1);
    set_num_threads(4);
    {
        const Watched watched(maps);
        parallel_for(64, 1, [&](std::size_t begin, std::size_t end) {
            for (std::size_t k = begin; k < end; ++k)
                (void)sum(file.data + k * file.page, file.page);
        });
    }
    CHECK(maps.lost() == 0);
}

void test_two_tables_at_once() {
    const File one(4);
    const File two(4);
    Maps first;
    Maps second;
    first.add(one.data, one.bytes);
    second.add(two.data, two.bytes);
    one.cut(0);
    {
        const Watched outer(first);
        const Watched inner(second);
        (void)sum(one.data, one.bytes);
        (void)sum(two.data, two.bytes);
    }
    CHECK(first.lost() == 0);
    CHECK(second.lost() == Maps::none);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool is_sanitized = true; // the sanitizer reports the signal in its own way
#else
constexpr bool is_sanitized = false;
#endif

void test_other_signals_are_not_ours() {
    const File file(2);
    Maps maps;
    maps.add(file.data, file.page); // the second page belongs to somebody else
    file.cut(0);
    CHECK(end_of([&] {
              const Watched watched(maps);
              sink = file.data[file.page];
          }) == -SIGBUS);
    CHECK(end_of([&] { sink = file.data[0]; }) == -SIGBUS); // nobody watches
    CHECK(end_of([] { raise(SIGBUS); }) == -SIGBUS);
}

} // namespace

int main() {
    test_whole_files();
    test_a_file_that_was_cut();
    test_threads_of_the_pool();
    test_two_tables_at_once();
    if constexpr (!is_sanitized)
        test_other_signals_are_not_ours();
    return 0;
}
#endif
