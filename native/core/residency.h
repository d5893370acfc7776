#pragma once
// What the system knows of the pages of mapped files, and is told of them.

#include <cstddef>
#include <cstdint>

namespace shardwise {

/// Whether the page at an address is in memory; true where the system does not tell.
bool is_resident(const void *address);

/// Asks for pages to be read, and returns when it is asked: advice, which may lead nowhere.
void will_need(std::uintptr_t begin, std::uintptr_t end);

/// Tells that pages are touched in no order.
void will_be_random(std::uintptr_t begin, std::uintptr_t end);

} // namespace shardwise
