"""What sharded formats have in common: a JSON map that names files, and the files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from asyncload.errors import NotFound, TooLarge, Unsafe
from asyncload.interfaces import Indexing, Reader

from ._concurrent import for_each

__all__ = ["AT_ONCE", "check_beside", "open_shard", "open_shards", "read_map"]

AT_ONCE = 8  # shards that are opened and indexed together
_MAP_LIMIT = 100_000_000  # bytes, as for a safetensors header


async def read_map(reader: Reader) -> bytes:
    """Return the whole text of a map.

    Raises:
        TooLarge: it has more than 100 MB.
    """
    if reader.size > _MAP_LIMIT:
        raise TooLarge(
            f"has {reader.size} bytes; the limit is {_MAP_LIMIT}. Load the shards by their own "
            "names.",
            uri=reader.uri,
        )
    return await reader.read(0, reader.size)


def check_beside(shard: str, *, uri: str, tensor: str) -> None:
    """Refuse the name of a shard that leads out of its map's folder.

    Args:
        shard: the name, as the map ``uri`` has it.
        uri: the map.
        tensor: what is mapped to it.

    Raises:
        Unsafe: it does.
    """
    if shard in (".", "..") or any(sign in shard for sign in "/\\\0"):
        raise Unsafe(
            f"is mapped to {shard!r}, which has a path in it; shards must lie beside their index",
            uri=uri,
            tensor=tensor,
        )


async def open_shard(indexing: Indexing, name: str) -> Reader:
    """Open a file beside the map.

    Raises:
        NotFound: it is missing.
    """
    try:
        return await indexing.source.open(name)
    except NotFound as error:
        raise NotFound(
            f"the shard {name!r} that it names is missing. Copy all files of the model into one "
            "folder.",
            uri=indexing.source.uri,
        ) from error


async def open_shards(indexing: Indexing, names: Sequence[str]) -> list[int]:
    """Open files beside the map; return their indexes in ``indexing.files``.

    Raises:
        NotFound: one is missing.
    """

    async def opened(name: str) -> Reader:
        return await open_shard(indexing, name)

    return [indexing.files.add(each) for each in await for_each(names, opened, limit=AT_ONCE)]
