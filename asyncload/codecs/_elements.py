"""Elements as bit patterns, which NumPy copies and swaps whatever they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.manifest import numpy_dtype

__all__ = ["Elements"]

_WORDS = frozenset({1, 2, 4, 8})  # bytes for which there is an unsigned integer
_CODE_POINT = 4  # bytes; NumPy's texts are UTF-32


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of a tensor.

    Attributes:
        itemsize: bytes of one.
        carrier: a dtype of that size that NumPy copies without looking at the bits.
        unit: bytes that a byte order applies to: half an element, where it is complex; one
            code point, where it is text.
    """

    itemsize: int
    carrier: np.dtype[Any]
    unit: int

    @classmethod
    def of(cls, dtype: str) -> Elements:
        """Return those of a canonical dtype name."""
        real = numpy_dtype(dtype)
        size = real.itemsize
        carrier = np.dtype(f"u{size}" if size in _WORDS else f"V{size}")
        unit = {"c": size // 2, "U": _CODE_POINT}.get(real.kind, size)
        return cls(size, carrier, unit)

    def array(self, content: bytes | memoryview, *, swap: bool) -> npt.NDArray[Any]:
        """Return elements in this machine's byte order, in one dimension.

        Args:
            content: their bytes; shared with the result unless swapped.
            swap: whether they have the other byte order.
        """
        if not swap or self.unit == 1:
            return np.frombuffer(content, self.carrier)
        if self.unit in _WORDS:
            return np.frombuffer(content, f"u{self.unit}").byteswap().view(self.carrier)
        units = np.frombuffer(content, np.uint8).reshape(-1, self.unit)
        return np.ascontiguousarray(units[:, ::-1]).reshape(-1).view(self.carrier)
