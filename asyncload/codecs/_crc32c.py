"""CRC32C (Castagnoli), by which TensorFlow guards its checkpoints.

The parameters are RFC 3720's; TensorFlow stores checksums masked, as LevelDB does
(tensorflow/core/lib/hash/crc32c.h).
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from functools import lru_cache

import google_crc32c
import numpy as np

__all__ = ["crc32c", "joined_crc32c", "unmasked"]

_POLYNOMIAL = 0x82F63B78  # reflected, without the term x^32
_ONE = 1 << 31  # the polynomial 1, reflected
_MASK_DELTA = 0xA282EAD8
_ROTATED = 15  # bits
_UINT32 = 0xFFFFFFFF
# The binding keeps the GIL for as long as a call takes, unless it is given `bytes`: 16 us for this
# much, after which another thread can have it. To call the library itself costs 2 us more.
_PIECE = 256 << 10  # bytes
_CHECKED = b"123456789", 0xE3069283  # the CRC catalogue's check value of CRC-32/ISCSI


def _without_gil() -> Callable[[int, int, int], int] | None:
    """Return the library's function (crc32c/crc32c.h); ``None`` where the wheel does not show it.

    It takes the checksum so far, an address and a number of bytes, and no GIL.
    """
    try:
        extension = importlib.import_module("google_crc32c._crc32c")
        function = ctypes.CDLL(extension.__file__).crc32c_extend
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t
    function.restype = ctypes.c_uint32
    content, expected = _CHECKED
    return function if function(0, content, len(content)) == expected else None


_extend = _without_gil()


def crc32c(content: bytes | memoryview, begun: int = 0) -> int:
    """Return the checksum of bytes; lets other threads run meanwhile.

    Args:
        content: the bytes.
        begun: the checksum of what comes before them.
    """
    array = np.frombuffer(content, np.uint8)  # the binding takes no memoryview
    if _extend is not None and len(array) > _PIECE:
        return _extend(begun, array.ctypes.data, len(array))
    checksum: int = google_crc32c.extend(begun, array[:_PIECE])
    for start in range(_PIECE, len(array), _PIECE):
        checksum = google_crc32c.extend(checksum, array[start : start + _PIECE])
    return checksum


def unmasked(stored: int) -> int:
    """Return the checksum that TensorFlow stores as ``stored``."""
    rotated = stored - _MASK_DELTA & _UINT32
    return (rotated >> 32 - _ROTATED | rotated << _ROTATED) & _UINT32


def joined_crc32c(first: int, second: int, length: int) -> int:
    """Return the checksum of two stretches of bytes from those of each.

    Args:
        first: of the first stretch.
        second: of what follows.
        length: bytes of what follows.
    """
    return _product(_power(length), first) ^ second


@lru_cache(maxsize=256)  # stretches of one load are mostly of one length
def _power(nbytes: int) -> int:
    """Return x^(8 * nbytes) modulo the polynomial."""
    result, square = _ONE, _ONE >> 8
    while nbytes:
        if nbytes & 1:
            result = _product(result, square)
        square = _product(square, square)
        nbytes >>= 1
    return result


def _product(first: int, second: int) -> int:
    """Multiply two reflected polynomials modulo the polynomial."""
    result = 0
    for bit in range(31, -1, -1):
        if first >> bit & 1:
            result ^= second
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return result
