"""A file that lies deflated inside another, made readable like any other."""

from __future__ import annotations

from asyncload.errors import AsyncloadError
from asyncload.interfaces import Reader, WorkerPool
from asyncload.manifest import Deflate, TensorEntry
from asyncload.memory import SharedSlab
from asyncload.sources import LocalReader

from ._decode import decode_pieces

__all__ = ["unpack"]


async def unpack(
    reader: Reader, offset: int, stored: int, decoded: int, crc32: int, *, workers: WorkerPool
) -> Reader:
    """Inflate a member of a ZIP file in a worker, into shared memory.

    Args:
        reader: the ZIP file.
        offset: the member's first byte in it.
        stored: its bytes there.
        decoded: its bytes once inflated; the caller has made sure that this is credible.
        crc32: of the inflated bytes.
        workers: where to inflate.

    Returns:
        A reader of the inflated bytes, which are freed when it is closed.

    Raises:
        Corrupt, DecodeError: the member is damaged.
        SourceError: its bytes could not be read.
        MemoryLimitExceeded: the system has no memory left for it.
    """
    entry = TensorEntry("", "uint8", (decoded,), 0, offset, stored, Deflate(0, decoded, crc32))
    source, target = SharedSlab(max(stored, 1)), SharedSlab(max(decoded, 1))
    try:
        await reader.read_into(offset, [source.view[:stored]])
        order = (entry, ((0, stored),), 0, False)
        await workers.run(decode_pieces, source.handle, target.handle, (order,))
        return await LocalReader.open(
            target.handle.path, uri=reader.uri, threads=workers.threads, owner=target
        )
    except BaseException as error:
        target.close()
        if isinstance(error, AsyncloadError):
            error.uri = error.uri or reader.uri
        raise
    finally:
        source.close()
