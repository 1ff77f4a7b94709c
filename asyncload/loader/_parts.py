"""`map_parts`: the user's own decode, in workers, on bytes that were read for it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.cgroups import memory_left
from asyncload.errors import AsyncloadError, DecodeError
from asyncload.interfaces import Reader
from asyncload.memory import SharedSlab, SlabPool
from asyncload.pipeline.user_decode import Placed, decode_part
from asyncload.redaction import shown
from asyncload.workers import Workers

from ._load import Load

__all__ = ["PartResult", "decode_whole", "map_parts", "memory_there_is", "physical_memory"]

Array = npt.NDArray[Any]
URI = str | os.PathLike[str]
Decode = Callable[[memoryview], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class PartResult:
    """What became of one part.

    Attributes:
        index: its position among the URIs.
        uri: its URI, without credentials.
        arrays: name -> read-only array, 64-byte-aligned, if it was decoded; the arrays of a part
            share its memory, which is given back with the last of them.
        error: what went wrong, if something did.
    """

    index: int
    uri: str
    arrays: Mapping[str, Array] | None = None
    error: Exception | None = None

    def unwrap(self) -> Mapping[str, Array]:
        """Return the arrays, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.arrays or {}


async def map_parts(
    uris: Iterable[URI], start: Callable[[URI], Load[Mapping[str, Array]]], window: int
) -> AsyncGenerator[PartResult, None]:
    """Start a load for each part, ``window`` of them at once, and yield them as they complete.

    Leaving the iteration cancels the loads under way.
    """
    waiting = iter(enumerate(uris))
    running: dict[asyncio.Future[Mapping[str, Array]], tuple[int, str]] = {}
    try:
        while True:
            for index, uri in itertools.islice(waiting, window - len(running)):
                running[asyncio.ensure_future(start(uri))] = index, shown(uri)
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                yield _outcome(future, *running.pop(future))
    finally:
        for future in running:
            future.cancel()


def _outcome(future: asyncio.Future[Mapping[str, Array]], index: int, uri: str) -> PartResult:
    error = future.exception()
    if error is None:
        return PartResult(index, uri, arrays=future.result())
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, AsyncloadError):
        error.__traceback__ = None
        error.uri = error.uri or uri
        return PartResult(index, uri, error=error)
    translated = DecodeError(f"decode raised {type(error).__name__}: {error}", uri=uri)
    translated.__cause__ = error
    return PartResult(index, uri, error=translated)


async def decode_whole(
    decode: Decode, reader: Reader, workers: Workers, slabs: SlabPool
) -> Mapping[str, Array]:
    """Read a whole file into shared memory, and have a worker decode it."""
    encoded = slabs.lease(max(reader.size, 1))
    # Sparse: it takes as much memory as is written to it.
    result = SharedSlab(physical_memory())
    try:
        await reader.read_into(0, [encoded.view[: reader.size]])
        await reader.check()
        placed = await workers.run(
            decode_part, decode, encoded.handle, reader.size, result.handle, limits=None
        )
    except BaseException:
        slabs.discard(encoded)
        raise
    else:
        slabs.give_back(encoded)
        return {item[0]: _array(item, result.view) for item in placed}
    finally:
        result.close()


def _array(placed: Placed, memory: memoryview) -> Array:
    _, dtype, shape, offset = placed
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    array = np.frombuffer(memory[offset : offset + nbytes], np.uint8).view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def memory_there_is() -> int:
    """Return the bytes of memory that loads may count on.

    All of the machine's, or what the container has left below its limits.
    """
    left = memory_left()
    return physical_memory() if left is None else min(left, physical_memory())


def physical_memory() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
