#!/usr/bin/env bash
# What prefetch saves where the network is slow: benchmarks/overlap.py on two network namespaces.
#
#     sudo bash benchmarks/overlap.sh PYTHON FOLDER [MILLISECONDS] [OPTION...]
#
# MILLISECONDS: each way; OPTIONs are those of overlap.py. Needs what tests/two_hosts.sh needs.
set -euo pipefail
python=$1 folder=$2 delay=${3:-2}
shift $(($# < 3 ? $# : 3))
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/two_hosts.sh"

# host NUMBER OPTION...: what one host does.
host() {
  local number=$1
  shift
  cd "$here"
  GLOO_SOCKET_IFNAME=eth0 OMP_NUM_THREADS=1 exec ip netns exec "$name-$number" "$python" -m torch.distributed.run \
    --nnodes 2 --node-rank "$number" --nproc-per-node 1 --master-addr 10.77.0.1 --master-port $port \
    -m benchmarks.overlap "$@"
}
host 1 "$@" >"$folder/host-1" 2>&1 &
other=$!
host 0 "$@" &
wait $!
wait $other
