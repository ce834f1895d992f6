"""A cable that delays, where the kernel has no netem: `python -m tests.chaos.delay NEAR FAR SECONDS JITTER`.

Makes two network devices and carries every frame from each to the other, later, in order. The kernel itself hands over
whole frames with their checksums, as to a real cable. Both devices are gone with the process.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import struct
import sys
import time
from itertools import count

TUN = "/dev/net/tun"
#: linux/if_tun.h.
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME_BYTES_MAX = 65_536


def tap(name: str) -> int:
    """A network device whose frames this process reads and writes; raises OSError."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def carry(near: int, far: int, delay_s: float, jitter_s: float) -> None:
    """For ever."""
    rng = random.Random(0)
    order = count()
    ways = {near: far, far: near}
    #: When the last frame that each device is to get is due: a cable does not change their order.
    last_s = {near: 0.0, far: 0.0}
    waiting: list[tuple[float, int, int, bytes]] = []
    selector = selectors.DefaultSelector()
    for descriptor in ways:
        selector.register(descriptor, selectors.EVENT_READ)
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for key, _ in selector.select(timeout_s):
            to = ways[key.fd]
            frame = os.read(key.fd, FRAME_BYTES_MAX)
            due_s = time.monotonic() + delay_s + rng.uniform(-jitter_s, jitter_s)
            last_s[to] = max(last_s[to], due_s)
            heapq.heappush(waiting, (last_s[to], next(order), to, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(waiting)
            try:
                os.write(to, frame)
            except OSError:
                # Its device is down, or full: a cable drops it.
                continue


if __name__ == "__main__":
    carry(tap(sys.argv[1]), tap(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
