"""The worker's side of `map_parts`: the user's function between two stretches of shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.errors import DecodeError
from asyncload.memory import ALIGNMENT, SlabHandle, attach

__all__ = ["Placed", "decode_part"]

Array = npt.NDArray[Any]
Decode = Callable[[memoryview], Mapping[str, Array]]
Placed = tuple[str, np.dtype[Any], tuple[int, ...], int]  # name, dtype, shape, offset


def decode_part(
    decode: Decode, encoded: SlabHandle, length: int, result: SlabHandle
) -> list[Placed]:
    """Call the user's ``decode`` on a part, and put the arrays that it returns where they are seen.

    Args:
        decode: the user's function.
        encoded: the part's bytes, ``length`` of them.
        length: in bytes.
        result: where the arrays go, one after the other, each 64-byte-aligned.

    Returns:
        What was put where: a few hundred bytes to send back, however large the arrays.

    Raises:
        DecodeError: ``decode`` returned something else than arrays of numbers by name, or more of
            them than fit into the machine's memory.
        Exception: whatever ``decode`` raised.
    """
    with attach(encoded) as source:
        arrays = decode(source[:length].toreadonly())
        checked = _checked(arrays)
        del arrays
        with attach(result) as target:
            return _place(checked, target)


def _checked(arrays: object) -> dict[str, Array]:
    if not isinstance(arrays, Mapping):
        raise DecodeError(
            f"decode has to return a mapping of names to arrays, not {type(arrays).__name__}"
        )
    checked = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if not isinstance(name, str) or array.dtype.hasobject:
            raise DecodeError(
                f"decode has to return arrays of numbers by name; {name!r} is {array.dtype}",
                tensor=str(name),
            )
        checked[name] = array
    return checked


def _place(arrays: Mapping[str, Array], target: memoryview) -> list[Placed]:
    placed: list[Placed] = []
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        if end > len(target):
            raise DecodeError(f"decode returned more than {len(target):,} bytes", tensor=name)
        home = np.frombuffer(target[offset:end], np.uint8).view(array.dtype)
        home.reshape(array.shape)[...] = array
        placed.append((name, array.dtype, array.shape, offset))
        offset = -(-end // ALIGNMENT) * ALIGNMENT
    return placed
