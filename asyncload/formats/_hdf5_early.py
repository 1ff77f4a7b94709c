"""Indexes an HDF5 file while it is being fetched: each dataset as soon as its structures are in.

HDF5 writes structures where it needs them, between the data, so that a file's index is complete
only with its last bytes. What lies in front is known, and can be read, long before. A worker walks
as far as it gets with the bytes that are in, and says what it is missing; when that has come, a
worker goes on from there. Objects are walked in the order in which they lie in the file, as this is
how it comes; the lists of a group's members are asked for out of turn, as they may lie anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncload.errors import about
from asyncload.interfaces import Bounds, HeldReader, Indexing
from asyncload.manifest import TensorEntry

from ._hdf5_rows import Row

__all__ = ["Walked", "walk_as_it_comes"]

_STEP = 4 << 20  # bytes that are to come before another try, which takes some milliseconds

Span = tuple[int, int]  # offset, length


@dataclass(frozen=True, slots=True)
class Walked:
    """What one step of a walk found.

    Attributes:
        rows: of datasets.
        left_out: path of each dataset that makes no tensor, and why.
        state: for the next step, and for nobody else; empty once all was walked.
        apart: bytes that it needs, and that may come late if nobody asks.
        next: bytes that it needs, and that come in the order of the file.
        odd: whether the file has what only a walk over all of it can judge.
    """

    rows: tuple[Row, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    state: bytes = b""
    apart: tuple[Span, ...] = ()
    next: Span | None = None
    odd: bool = False


async def walk_as_it_comes(
    indexing: Indexing,
    reader: HeldReader,
    entries: Callable[[Sequence[Row]], Mapping[str, TensorEntry]],
) -> tuple[dict[str, TensorEntry], dict[str, str]] | None:
    """Walk an HDF5 file on its way into memory, and say what was found as it is.

    Args:
        indexing: what to work with.
        reader: of the whole HDF5 file.
        entries: makes tensors' entries of rows, in a thread.

    Returns:
        The tensors in h5py's order, and what makes none, with the reason; ``None`` if only a walk
        over all of it, from the start, will do.

    Raises: as `index_hdf5` does.
    """
    found: dict[str, TensorEntry] = {}
    left_out: dict[str, str] = {}
    state = b""
    where = reader.path, reader.version, 0, reader.size, reader.uri
    while True:
        with about(reader.uri):
            walked = await indexing.workers.run(
                _walk_on, state, indexing.bounds, *where, reader.present()
            )
        if walked.odd:
            return None
        left_out.update(walked.left_out)
        if walked.rows:
            tensors = await indexing.workers.run_in_thread(entries, walked.rows)
            indexing.found(tensors)
            found.update(tensors)
        if not walked.state:
            return await indexing.workers.run_in_thread(_in_order, found), left_out
        state = walked.state
        if walked.apart:
            await reader.expect(walked.apart)
        elif walked.next is not None:
            await _come(reader, *walked.next)


async def _come(reader: HeldReader, offset: int, length: int) -> None:
    await reader.more(_STEP)
    while not any(begin <= offset and offset + length <= end for begin, end in reader.present()):
        await reader.more(_STEP)


def _in_order(found: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    # As HDF5 visits a group's members, by the bytes of their names, and each with all below it.
    names = sorted(found, key=lambda name: [part.encode() for part in name.split("/")])
    return {name: found[name] for name in names}


def _walk_on(state: bytes, bounds: Bounds, *where: Any) -> Walked:
    from ._hdf5_walk_on import walk_on

    return walk_on(state, bounds, *where)
