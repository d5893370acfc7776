#include "core/lost_pages.h"

#if !defined(_WIN32)
#include <csignal>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>
#endif

namespace shardwise {
namespace {

thread_local Watched *watched_here = nullptr;

void install();

} // namespace

void Maps::add(const void *begin, std::size_t bytes) {
    const auto from = reinterpret_cast<std::uintptr_t>(begin);
    pieces_.push_back(std::make_unique<Piece>(from, from + bytes));
    install();
}

std::size_t Maps::lost() const {
    if (!is_lost_.load(std::memory_order_acquire))
        return none;
    for (std::size_t k = 0; k < pieces_.size(); ++k)
        if (pieces_[k]->lost_from.load() != UINTPTR_MAX)
            return k;
    return none;
}

Watched *Watched::current() {
    return watched_here;
}

void Watched::set_current(Watched *watched) {
    watched_here = watched;
}

#if defined(_WIN32) // which lets nobody cut a file that is mapped

namespace {

void install() {}

} // namespace

Watched::Watched(Maps &maps) : maps_(maps), outer_(nullptr) {}
Watched::~Watched() = default;

#else

namespace {

std::uintptr_t page_mask() {
    static const std::uintptr_t mask = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)) - 1;
    return mask;
}

struct sigaction before_ours; // what SIGBUS did, which is what it does where the page is not ours

} // namespace

/// In a signal handler: all that is called here may be.
bool Watched::replace(Watched *innermost, std::uintptr_t address) {
    const std::uintptr_t page = address & ~page_mask();
    for (const Watched *one = innermost; one != nullptr; one = one->outer_) {
        for (const auto &piece : one->maps_.pieces_) {
            if (address < (piece->begin & ~page_mask()) || address >= piece->end)
                continue;
            std::uintptr_t first = piece->lost_from.load();
            while (page < first && !piece->lost_from.compare_exchange_weak(first, page)) {
            }
            // Told before any zero is there to be read.
            one->maps_.is_lost_.store(true, std::memory_order_release);
            // To the end of the piece: a file that was cut has nothing there, and maps are few.
            const std::uintptr_t end = (piece->end + page_mask()) & ~page_mask();
            return mmap(reinterpret_cast<void *>(page), end - page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
        }
    }
    return false;
}

struct Handler {
    static void handle(int signal, siginfo_t *info, void *context) {
        // A program's own report of crashes may have come first, put this handler back, and raised the
        // signal again by hand: touching the page once more sends it with its address.
        const bool by_hand = info->si_code <= 0 && Watched::current() != nullptr;
        if (by_hand || Watched::replace(Watched::current(), reinterpret_cast<std::uintptr_t>(info->si_addr)))
            return;
        if ((before_ours.sa_flags & SA_SIGINFO) != 0) {
            before_ours.sa_sigaction(signal, info, context);
        } else if (before_ours.sa_handler != SIG_DFL && before_ours.sa_handler != SIG_IGN) {
            before_ours.sa_handler(signal);
        } else {
            sigaction(SIGBUS, &before_ours, nullptr); // touched again, it ends the process
            if (info->si_code <= 0)
                raise(signal);
        }
    }
};

namespace {

void install() {
    static std::once_flag once;
    std::call_once(once, [] {
        (void)page_mask();
        struct sigaction ours = {};
        ours.sa_sigaction = &Handler::handle;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&ours.sa_mask);
        sigaction(SIGBUS, &ours, &before_ours);
    });
}

/// Takes the zeros away: who touches these pages by other ways must not take them for rows.
void make_unreadable(std::uintptr_t begin, std::uintptr_t end) {
    void *const place = reinterpret_cast<void *>(begin);
    int empty = -1;
#if defined(__linux__)
    empty = memfd_create("shardwise: lost pages", MFD_CLOEXEC); // a map beyond its end is what the file's was
#endif
    if (empty < 0 ||
        mmap(place, end - begin, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, empty, 0) == MAP_FAILED)
        (void)mprotect(place, end - begin, PROT_NONE);
    if (empty >= 0)
        close(empty);
}

} // namespace

Watched::Watched(Maps &maps) : maps_(maps), outer_(watched_here) {
    watched_here = this;
}

Watched::~Watched() {
    watched_here = outer_;
    if (!maps_.is_lost_.load(std::memory_order_acquire))
        return;
    for (const auto &piece : maps_.pieces_) {
        const std::uintptr_t from = piece->lost_from.load();
        if (from != UINTPTR_MAX)
            make_unreadable(from, (piece->end + page_mask()) & ~page_mask());
    }
}

#endif

} // namespace shardwise
