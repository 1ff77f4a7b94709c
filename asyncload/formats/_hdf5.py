"""The index of an HDF5 file: which datasets it has, and where their bytes lie.

The HDF5 library itself reads the file's structures, in a worker process: they are untrusted,
and take 50 ms for a thousand datasets (`_hdf5_walk`). It reads no dataset's data.
"""

from __future__ import annotations

from asyncload.errors import FormatError
from asyncload.interfaces import Indexing
from asyncload.manifest import Chunk, Chunked, Encoding, Inline, Reorder, TensorEntry

from ._hdf5_rows import RawEncoding, Row

__all__ = ["MAGIC", "index_hdf5"]

MAGIC = b"\x89HDF\r\n\x1a\n"


async def index_hdf5(
    indexing: Indexing, file: int, *, base: int = 0, length: int | None = None
) -> dict[str, TensorEntry]:
    """Index an HDF5 file, or one that lies as it is within a file.

    Args:
        indexing: what to work with.
        file: index of the file in ``indexing.files``. Where its reader has no ``path``, the HDF5
            file is fetched whole first, as its index is scattered all over it.
        base: offset of the HDF5 file within the file.
        length: its length in bytes; ``None`` for all that follows.

    Returns:
        The tensors by the path of their dataset (``layers/dense/vars/0``), in the order of
        h5py.

    Raises:
        Corrupt: not HDF5, damaged or truncated.
        Unsafe: soft or external links, external or virtual storage, groups linked twice,
            filters that are not known to be safe.
        TooLarge: it declares more than it can hold, or takes too long to index.
        FormatError: a dataset's type makes no tensor.
        SourceChanged: the file is another now than the one that was opened.
    """
    reader = indexing.files.readers[file]
    length = reader.size - base if length is None else length
    try:
        begin = base
        if reader.path is None:
            reader, begin = await indexing.hold(file, base, length), 0
        rows = await indexing.workers.run(
            _walk_file, reader.path, reader.version, begin, length, reader.uri
        )
        return await indexing.workers.run_in_thread(_entries, rows, file, base)
    except FormatError as error:
        # What the workers raise by themselves, such as TooLarge, knows no file.
        if error.uri is None:
            error.uri = reader.uri
        raise


# h5py takes 0.1 s to import, which only the workers need pay.


def _walk_file(path: str, version: str, base: int, length: int, uri: str) -> list[Row]:
    from ._hdf5_walk import walk_file

    return walk_file(path, version, base, length, uri)


def _entries(rows: list[Row], file: int, base: int) -> dict[str, TensorEntry]:
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
                for origin, offset, length, mask in chunks
            )
            return Chunked(chunk, filters, stored, fill, swap)
