#pragma once
// One function per core file; module.cpp calls them in order.

#include <nanobind/nanobind.h>

namespace shardwise {

void register_gather(nanobind::module_ &m);
void register_memory(nanobind::module_ &m);
void register_partition(nanobind::module_ &m);
void register_text(nanobind::module_ &m);
void register_threads(nanobind::module_ &m);
void register_token_map(nanobind::module_ &m);

} // namespace shardwise
