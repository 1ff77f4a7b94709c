"""Which models of a cache go to make room for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Share", "to_evict"]


@dataclass(frozen=True, slots=True)
class Share:
    """What one model takes of a cache.

    Attributes:
        uri: its key.
        nbytes: that it takes.
        idle: whether nobody uses it or waits for it, so that it may go.
    """

    uri: str
    nbytes: int
    idle: bool


def to_evict(shares: Sequence[Share], limit: int) -> list[str] | None:
    """Return which models have to go so that the rest takes ``limit`` bytes at most.

    Args:
        shares: the one used least recently first.
        limit: bytes.

    Returns:
        Their keys, the first idle ones, as many as it takes; ``None`` if all idle ones would not
        do.
    """
    taken = sum(share.nbytes for share in shares)
    victims: list[str] = []
    for share in shares:
        if taken <= limit:
            break
        if share.idle and share.nbytes:
            taken -= share.nbytes
            victims.append(share.uri)
    return victims if taken <= limit else None
