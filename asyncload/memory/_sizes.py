"""Sizes as people write them."""

from __future__ import annotations

import re

__all__ = ["parse_size"]

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(size: int | str) -> int:
    """Return a number of bytes.

    Args:
        size: bytes, or a text such as ``"4GiB"``, ``"64 MiB"``, ``"500MB"`` or ``"1024"``.
            ``KiB`` is 1024 bytes and ``KB`` is 1000, and so on up to ``TiB`` and ``TB``.

    Raises:
        TypeError: neither an int nor a text.
        ValueError: negative, or no such text.
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise TypeError(f"a size is an int of bytes or a text such as '4GiB', not {size!r}")
    if isinstance(size, int):
        if size < 0:
            raise ValueError(f"a size cannot be negative: {size}")
        return size
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError(f"cannot read {size!r} as a size; write bytes or e.g. '4GiB' or '500MB'")
    number, unit, binary = match.groups()
    scale = (1024 if binary else 1000) ** _POWERS[(unit or "").lower()]
    return int(number) * scale if number.isdecimal() else int(float(number) * scale)
