# Two hosts, for scripts that source this: network namespaces "$name-0" and "$name-1" with the addresses
# 10.77.0.1 and 10.77.0.2, and a link between them that takes "$delay" milliseconds each way.
#
# Needs ip and tc (iproute2), root, and the variables python, folder (empty), delay, and here (the checkout).
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

