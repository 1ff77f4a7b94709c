"""When bytes leave a link of limited rate, and how connections end badly."""

from __future__ import annotations

import asyncio
import math
import socket
import struct

__all__ = ["Link", "piece", "reset_when_closed", "sleep_until"]

_BURST = 0.005  # seconds by which the link makes up for late timers, which are of 1 ms
_PIECE = 256 << 10  # bytes carried at once at most
_PIECE_TIME = 0.002  # seconds that a piece takes on a limited link
_DRIP, _DRIP_TIME = 4 << 10, 0.02  # the same on one so slow that its pieces are smaller than this


class Link:
    """A link that carries ``rate`` bytes per second, one piece after the other; 0 is unlimited."""

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self._free_at = 0.0

    def reserve(self, size: int, now: float) -> float:
        """Take the next place for ``size`` bytes; return when their last has left."""
        if not self.rate:
            return now
        self._free_at = max(self._free_at, now - _BURST) + size / self.rate
        return self._free_at


def piece(*rates: float) -> int:
    """Return how many bytes to carry at once, so that no limit is felt as bursts."""
    rate = min((rate for rate in rates if rate), default=math.inf)
    slow = max(1.0, min(_DRIP, rate * _DRIP_TIME))
    return int(min(_PIECE, max(slow, rate * _PIECE_TIME)))


async def sleep_until(moment: float) -> None:
    """Sleep until the running loop's clock shows ``moment``."""
    delay = moment - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


def reset_when_closed(peer: socket.socket) -> None:
    """Have a connection end with RST, as a crash or a middlebox does."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
