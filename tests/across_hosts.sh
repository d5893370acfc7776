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
name=sw$$ link=
port=29555

clean() {
  for host in 0 1; do
    ip netns pids "$name-$host" 2>/dev/null | xargs -r kill -9 || true
    ip netns del "$name-$host" 2>/dev/null || true
  done
  [ -z "${link:-}" ] || kill "$link" 2>/dev/null || true
}
trap clean EXIT

for host in 0 1; do
  ip netns add "$name-$host"
done
# A slow link: netem where the kernel has it, else a program that holds frames back.
if tc qdisc add dev lo root netem delay 0ms 2>/dev/null; then
  tc qdisc del dev lo root
  ip -n "$name-0" link add eth0 type veth peer name eth0 netns "$name-1"
else
  echo "no netem in this kernel: frames are held back by tests/slow_link.py"
  "$python" "$here/tests/slow_link.py" "$name.0" "$name.1" "$delay" >"$folder/link" &
  link=$!
  until grep -qs ready "$folder/link"; do sleep 0.05; done
  for host in 0 1; do
    ip link set "$name.$host" netns "$name-$host"
    ip -n "$name-$host" link set "$name.$host" name eth0
  done
fi
for host in 0 1; do
  ip -n "$name-$host" link set lo up
  ip -n "$name-$host" link set eth0 up
  ip -n "$name-$host" addr add "10.77.0.$((host + 1))/24" dev eth0
  [ -n "${link:-}" ] || ip netns exec "$name-$host" tc qdisc add dev eth0 root netem delay "${delay}ms"
done
ip netns exec "$name-0" "$python" - <<'PY'
import contextlib, socket, time
times = []
for _ in range(5):  # nobody listens: the refusal takes one way there and back
    begin = time.perf_counter()
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("10.77.0.2", 9), timeout=5)
    times.append(time.perf_counter() - begin)
print(f"there and back in {min(times) * 1e3:.1f} ms")
PY

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
