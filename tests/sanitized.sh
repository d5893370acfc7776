# Runs Python on a shardwise that was built with sanitizers: sanitized.sh SITE SCRIPT...
# The sanitizer must be loaded first, and Python's own allocations that live on are no leaks of ours.
site=$1
shift
export PYTHONPATH=$site
export ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0:max_allocation_size_mb=1024:allocator_may_return_null=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)" exec python "$@"
