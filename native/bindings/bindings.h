#pragma once
// One function per core file, which module.cpp calls in order; and what they share.

#include <nanobind/nanobind.h>

#include "core/lost_pages.h"

#include <chrono>
#include <string>
#include <thread>

namespace shardwise {

/// Lets go of the GIL for the rest of a block. A daemon thread may ask for it back when Python has ended: up
/// to 3.13 CPython answers by unwinding the thread's stack, which a destructor would turn into an abort of
/// the process. Such a thread sleeps here instead, as it would in 3.14.
class ReleasedGil {
public:
    ReleasedGil() : state_(PyEval_SaveThread()) {}
    ~ReleasedGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;)
                std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }
    ReleasedGil(const ReleasedGil &) = delete;
    ReleasedGil &operator=(const ReleasedGil &) = delete;

private:
    PyThreadState *state_;
};

/// Adds the bytes of a shard's rows to what is watched.
template <class Array>
void add_rows(Maps &maps, const Array &shard, std::size_t rows, std::size_t row_bytes) {
    if (rows > 0 && row_bytes > 0) // rows of mapped files follow each other
        maps.add(shard.data, (rows - 1) * static_cast<std::size_t>(shard.stride) + row_bytes);
}

[[noreturn]] void throw_store_error(const std::string &message);

/// Throws a StoreError where a page of a table's files could not be had.
void refuse_lost(const Maps &maps);

void register_fingerprint(nanobind::module_ &m);
void register_gather(nanobind::module_ &m);
void register_initialize(nanobind::module_ &m);
void register_mapped_file(nanobind::module_ &m);
void register_memory(nanobind::module_ &m);
void register_nearest(nanobind::module_ &m);
void register_partition(nanobind::module_ &m);
void register_quantize(nanobind::module_ &m);
void register_route(nanobind::module_ &m);
void register_skipgram(nanobind::module_ &m);
void register_subwords(nanobind::module_ &m);
void register_text(nanobind::module_ &m);
void register_threads(nanobind::module_ &m);
void register_token_counts(nanobind::module_ &m);
void register_token_map(nanobind::module_ &m);
void register_update(nanobind::module_ &m);

} // namespace shardwise
