#!/usr/bin/env bash
# Two hosts, each a network namespace with its own address and a slow link: torchrun trains across
# them, one is cut off, and the training goes on from the last checkpoint.
#
#     sudo bash tests/across_hosts.sh PYTHON FOLDER [MILLISECONDS]
#
# Needs ip and tc (iproute2), root, and an empty FOLDER.
set -euo pipefail
python=$1 folder=$2 delay=${3:-2}
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/two_hosts.sh"

# train HOST STEPS: what one host does.
train() {
  GLOO_SOCKET_IFNAME=eth0 OMP_NUM_THREADS=1 ip netns exec "$name-$1" "$python" -m torch.distributed.run \
    --nnodes 2 --node-rank "$1" --nproc-per-node 1 --master-addr 10.77.0.1 --master-port $port \
    "$here/examples/train_on_ranks.py" "$folder/kept" --steps "$2" --every 10 --timeout 6 \
    >"$folder/host-$1.$3" 2>&1
}

echo "== training, then host 1 is cut off"
train 0 100000 cut & first=$!
train 1 100000 cut & second=$!
until grep -qs "step 30" "$folder/host-0.cut"; do
  kill -0 $first 2>/dev/null || { cat "$folder/host-0.cut"; exit 1; }
  sleep 0.2
done
ip -n "$name-1" link set eth0 down
cut=$SECONDS
if wait $first; then echo "host 0 should have failed"; exit 1; fi
echo "host 0 ended $((SECONDS - cut)) s after the cut"
if wait $second; then echo "host 1 should have failed"; exit 1; fi
for host in 0 1; do
  echo "host $host: $(grep -h 'DistributedError: expected' "$folder/host-$host.cut" | head -1 | cut -c1-400)"
done

echo "== the link is back: the training goes on"
ip -n "$name-1" link set eth0 up
sleep 1
step=$("$python" -c "from shardwise import Table; print(Table.open('$folder/kept', verify=True).optimizer_step)")
train 0 $((step + 30)) again & first=$!
train 1 $((step + 30)) again & second=$!
wait $first $second
grep -h "step\|rows" "$folder/host-0.again"
grep -q "from step $step" "$folder/host-0.again"
