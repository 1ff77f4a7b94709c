"""The index of an HDF5 file: which datasets it has, and where their bytes lie.

The HDF5 library itself reads the file's structures, in a worker process: they are untrusted,
and take 50 ms for a thousand datasets (`_hdf5_walk`). It reads no dataset's data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from asyncload.collecting import collection_held
from asyncload.errors import FormatError, about
from asyncload.interfaces import Bounds, Indexing
from asyncload.manifest import Chunk, Chunked, Encoding, Inline, Reorder, TensorEntry

from ._hdf5_early import walk_as_it_comes
from ._hdf5_rows import RawEncoding, Row, chunks_of, pack, unpack

__all__ = ["MAGIC", "index_hdf5", "read_structures"]

Result = TypeVar("Result")

MAGIC = b"\x89HDF\r\n\x1a\n"


async def index_hdf5(
    indexing: Indexing,
    file: int,
    *,
    base: int = 0,
    length: int | None = None,
    early: bool = False,
) -> dict[str, TensorEntry]:
    """Index an HDF5 file, or one that lies as it is within a file.

    Args:
        indexing: what to work with.
        file: index of the file in ``indexing.files``. Where its reader has no ``path``, the HDF5
            file is fetched whole, as its index is scattered all over it.
        base: offset of the HDF5 file within the file.
        length: its length in bytes; ``None`` for all that follows.
        early: whether tensors are reported (``indexing.found``) while the file is being fetched:
            the manifest is to have all of them, as they are.

    Returns:
        The tensors by the path of their dataset (``layers/dense/vars/0``), in the order of
        h5py.

    Raises:
        Corrupt: not HDF5, damaged or truncated.
        Unsafe: soft or external links, external or virtual storage, groups linked twice,
            filters that are not known to be safe.
        TooLarge: it declares more than it can hold, or takes too long to index.
        FormatError: it has datasets, none of which is of a type that makes a tensor. Where some
            are, the others stand in ``indexing.left_out``.
        SourceChanged: the file is another now than the one that was opened.
    """
    found, left_out = await _index(indexing, file, base=base, length=length, early=early)
    if not found and left_out:
        name, reason = next(iter(left_out.items()))
        raise FormatError(reason, uri=indexing.files.readers[file].uri, tensor=name)
    indexing.left_out.update(left_out)
    return found


async def _index(
    indexing: Indexing, file: int, *, base: int, length: int | None, early: bool
) -> tuple[dict[str, TensorEntry], Mapping[str, str]]:
    reader = indexing.files.readers[file]
    entries = functools.partial(_entries, file=file, base=base)
    if early and reader.path is None:
        length = reader.size - base if length is None else length
        with about(reader.uri):
            held = await indexing.hold(file, base, length)
            found = await walk_as_it_comes(indexing, held, entries)
        if found is not None:
            return found
    walk = functools.partial(_walk, bounds=indexing.bounds)
    pieces, left_out = await read_structures(indexing, file, walk, base=base, length=length)
    return await indexing.workers.run_in_thread(_entries_of, entries, pieces), left_out


async def read_structures(
    indexing: Indexing,
    file: int,
    function: Callable[..., Result],
    *,
    base: int = 0,
    length: int | None = None,
) -> Result:
    """Call ``function`` with an HDF5 file, open, in a worker process.

    Args:
        indexing: what to work with.
        file: as `index_hdf5` takes it.
        function: called with a `_hdf5_file.OpenFile`; importable by name.
        base: offset of the HDF5 file within the file.
        length: its length in bytes; ``None`` for all that follows.

    Raises:
        Corrupt: not HDF5, damaged or truncated.
        TooLarge: it takes too long, or too much memory.
        SourceChanged: the file is another now than the one that was opened.
        FormatError: what ``function`` raised.
    """
    reader = indexing.files.readers[file]
    length = reader.size - base if length is None else length
    with about(reader.uri):
        begin = base
        if reader.path is None:
            held = await indexing.hold(file, base, length)
            await held.more(length)
            reader, begin = held, 0
        return await indexing.workers.run(
            _in_path, function, reader.path, reader.version, begin, length, reader.uri
        )


# h5py takes 0.1 s to import, which only the workers need pay.


def _in_path(function: Callable[..., Result], *where: Any) -> Result:
    from ._hdf5_file import open_path

    with open_path(*where) as file:
        return function(file)


def _walk(file: Any, *, bounds: Bounds) -> tuple[list[bytes], dict[str, str]]:
    from ._hdf5_walk import walk

    rows, left_out = walk(file, bounds)
    return pack(rows), left_out


def _entries_of(
    entries: Callable[[Iterable[Row]], dict[str, TensorEntry]], pieces: Sequence[bytes]
) -> dict[str, TensorEntry]:
    with collection_held():
        return entries(unpack(pieces))


def _entries(rows: Iterable[Row], file: int, base: int) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(
            name, dtype, shape, file, base + offset, length, encoding and _encoding(encoding, base)
        )
        for name, dtype, shape, offset, length, encoding in rows
    }


def _encoding(raw: RawEncoding, base: int) -> Encoding:
    match raw:
        case ("inline", data):
            return Inline(data)
        case ("reorder", swap):
            return Reorder("C", swap)
        case ("chunked", chunk, filters, chunks, fill, swap):
            stored = tuple(
                Chunk(origin, base + offset, length, mask)
                for origin, offset, length, mask in chunks_of(chunks, len(chunk))
            )
            return Chunked(chunk, filters, stored, fill, swap)
