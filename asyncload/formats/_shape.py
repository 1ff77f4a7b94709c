"""Shapes that a file declares, before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["SIZE_LIMIT", "array_bytes"]

SIZE_LIMIT = 1 << 63  # bytes; NumPy's and the file systems' own
_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32  # NumPy's own


def array_bytes(shape: Sequence[int], itemsize: int) -> int:
    """Return the bytes of an array that NumPy can make; no dimension is negative.

    Raises:
        ValueError: it cannot: too many dimensions, or too large even where another one is zero.
    """
    if len(shape) > _DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions; at most {_DIMENSIONS} are possible")
    if math.prod(size for size in shape if size) * itemsize >= SIZE_LIMIT:
        raise ValueError(f"a shape of {tuple(shape)}, too large for any machine")
    return math.prod(shape) * itemsize
