"""When bytes leave a link of limited rate, and how connections end badly."""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = ["Link", "abort", "piece", "sleep_until"]

_BURST = 0.005  # seconds by which the link makes up for late timers, which are of 1 ms
_PIECE = 64 << 10  # bytes let through at once on a limited link
_PIECE_TIME = 0.02  # seconds that a piece takes at least, on a slow one
_WHOLE = 256 << 10  # bytes carried at once without a limit


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
    limits = [rate for rate in rates if rate]
    return max(1, min(_PIECE, int(min(limits) * _PIECE_TIME))) if limits else _WHOLE


async def sleep_until(moment: float) -> None:
    """Sleep until the running loop's clock shows ``moment``."""
    delay = moment - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


def abort(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a crash or a middlebox does."""
    peer = writer.get_extra_info("socket")
    if peer is not None and not writer.transport.is_closing():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
