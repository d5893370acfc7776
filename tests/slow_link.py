"""A slow link between two network interfaces, for kernels without `tc netem`.

python tests/slow_link.py FIRST SECOND MILLISECONDS makes two interfaces, which may then be moved to
network namespaces, and carries each frame from one to the other after so long.
"""

import collections
import contextlib
import fcntl
import os
import select
import struct
import sys
import time

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def interface(name):
    """Make a network interface; what is sent through it can be read, and the other way."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return device


def main(first, second, milliseconds):
    devices = [interface(first), interface(second)]
    others = dict(zip(devices, reversed(devices), strict=True))
    delay, waiting = float(milliseconds) / 1000, collections.deque()
    print("ready", flush=True)
    while True:
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for device in select.select(devices, [], [], rest)[0]:
            with contextlib.suppress(OSError):  # nothing more to read, or an interface that is down
                while True:
                    waiting.append(
                        (time.monotonic() + delay, others[device], os.read(device, 1 << 16))
                    )
        while waiting and waiting[0][0] <= time.monotonic():
            _, to, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # a cut link: the frame is lost, as on any network
                os.write(to, frame)


main(*sys.argv[1:])
