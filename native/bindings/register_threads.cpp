#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "core/cpu.h"
#include "core/threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {

void register_threads(nb::module_ &m) {
    m.def("num_threads", &num_threads, "How many threads a kernel may use.");
    m.def("set_num_threads", &set_num_threads, "count"_a);
    m.def(
        "isa", [] { return std::string(level_names[level()]); },
        "The instruction level that kernels run at.");
    m.def(
        "isa_levels", [] { return std::vector<std::string>(level_names, level_names + supported_levels()); },
        "The instruction levels that this machine has.");
}

} // namespace shardwise
