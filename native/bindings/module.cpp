// The compiled module: a table of contents.

#include "bindings.h"

#include "arrays.h"
#include "core/cpu.h"
#include "core/memory.h"
#include "core/threads.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "The native core of shardwise: private, and only as stable as the Python above it.";
    // A table that lives as long as the process is no leak, and no matter for its user's terminal.
    nb::set_leak_warnings(false);
    m.def("set_leak_warnings", &nb::set_leak_warnings, nb::arg("on"),
          "Whether it is told at the end of Python what was not let go of: for tests.");
    shardwise::import_numpy();
    // A wrong environment variable is told at import, not at the first lookup.
    shardwise::level();
    shardwise::num_threads();
    shardwise::cache_bound();
    shardwise::register_partition(m);
    shardwise::register_gather(m);
    shardwise::register_initialize(m);
    shardwise::register_memory(m);
    shardwise::register_threads(m);
    shardwise::register_mapped_file(m);
    shardwise::register_token_map(m);
    shardwise::register_token_counts(m);
    shardwise::register_text(m);
    shardwise::register_subwords(m);
    shardwise::register_fingerprint(m);
    shardwise::register_quantize(m);
    shardwise::register_route(m);
    shardwise::register_update(m);
    shardwise::register_nearest(m);
    shardwise::register_skipgram(m);
}
