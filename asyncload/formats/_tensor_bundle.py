"""TensorFlow's checkpoints: an index, and the data files (shards) beside it.

``<prefix>.index`` says where in which ``<prefix>.data-00000-of-00001`` each tensor lies
(tensorflow/core/util/tensor_bundle/tensor_bundle.h). `index_bundle` serves every format that
has a bundle in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from asyncload.codecs import decode_strings
from asyncload.collecting import collection_held
from asyncload.errors import AsyncloadError, Corrupt, NotFound, TooLarge
from asyncload.interfaces import Indexing, Reader
from asyncload.manifest import Encoding, Manifest, Part, Partitioned, Strings, TensorEntry

from ._bundle_index import STRING, BundleIndex, Stored, parse_index
from ._checkpoint_state import STATE_FILE, read_state
from ._checkpoint_v1 import refuse_v1
from ._concurrent import for_each
from ._leveldb import CompressedTable

__all__ = ["INDEX_SUFFIX", "OBJECT_GRAPH", "Bundle", "TensorBundle", "index_bundle"]

INDEX_SUFFIX = ".index"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # a TrackableObjectGraph, where there is one
_INDEX_LIMIT = 256 << 20  # bytes: two million tensors
_GRAPH_LIMIT = 64 << 20  # bytes: half a million objects
_OPENED = 8  # shards at a time


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        tensors: name -> entry, in the index' order, names as ``tf.train.load_checkpoint`` has them.
        object_graph: the serialised TrackableObjectGraph; ``None`` in a checkpoint by names.
    """

    tensors: dict[str, TensorEntry]
    object_graph: bytes | None


class TensorBundle:
    """Format of checkpoints: a prefix, its ``.index``, or a folder with a ``checkpoint`` file.

    The object graph becomes the document `OBJECT_GRAPH`.
    """

    name = "checkpoint"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.index``; a table tells nothing by how it begins."""
        del head
        return name.endswith(INDEX_SUFFIX)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the checkpoint; of a folder, the latest one in it."""
        key = indexing.files.readers[0]
        name = key.name or indexing.source.name
        if name == STATE_FILE:
            bundle = await self._latest(indexing, await read_state(indexing, key))
        else:
            bundle = await index_bundle(indexing, name[: -len(INDEX_SUFFIX)], opened=key)
        graph = bundle.object_graph
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=bundle.tensors,
            documents={} if graph is None else {OBJECT_GRAPH: graph},
        )

    async def _latest(self, indexing: Indexing, prefix: str) -> Bundle:
        try:
            return await index_bundle(indexing, prefix)
        except NotFound:
            await refuse_v1(indexing, prefix)
            raise

    async def gather(self, indexing: Indexing) -> None:
        """Open the index and its shards; the index has to be read for that."""
        await self.index(indexing)


async def index_bundle(indexing: Indexing, prefix: str, *, opened: Reader | None = None) -> Bundle:
    """Index a bundle, and add its files to ``indexing.files``: those with tensors in them.

    Args:
        indexing: what to work with.
        prefix: what its files' names begin with, relative to the folder:
            ``variables/variables``.
        opened: the index, where it is among the files already.

    Raises:
        NotFound: the index or a shard is missing.
        Corrupt: one of them is truncated, damaged, or contradicts the other.
        FormatError: it has tensors of a dtype that makes no array; names the tensor.
        TooLarge: it declares more than is possible.
    """
    reader = opened if opened is not None else await _open_index(indexing, prefix)
    if reader.size > _INDEX_LIMIT:
        raise TooLarge(f"has {reader.size} bytes; the limit is {_INDEX_LIMIT}", uri=reader.uri)
    table = await reader.read(0, reader.size)
    try:
        index = await indexing.parse(parse_index, table, indexing.bounds, reader.uri)
    except CompressedTable:
        index = await indexing.workers.run(parse_index, table, indexing.bounds, reader.uri, True)
    shards = await _open_shards(indexing, prefix, index, reader.uri)
    tensors = await indexing.workers.run_in_thread(
        _all_entries, index, shards, indexing.files.readers
    )
    graph = tensors.pop(OBJECT_GRAPH, None)
    return Bundle(tensors, None if graph is None else await _read_graph(indexing, graph))


async def _open_index(indexing: Indexing, prefix: str) -> Reader:
    reader = await indexing.source.open(prefix + INDEX_SUFFIX)
    indexing.files.add(reader)
    return reader


# --- shards ------------------------------------------------------------------------------


async def _open_shards(
    indexing: Indexing, prefix: str, index: BundleIndex, uri: str
) -> dict[int, int]:
    """Open the shards that tensors are in; return shard number -> index of the file."""
    needed = await indexing.workers.run_in_thread(_needed, index, uri)

    async def open_shard(item: tuple[int, str]) -> Reader:
        number, tensor = item
        name = f"{prefix}.data-{number:05d}-of-{index.shards:05d}"
        try:
            return await indexing.source.open(name)
        except NotFound as error:
            raise NotFound(
                f"its shard {name!r} is missing. Copy all files of the checkpoint into one folder.",
                uri=error.uri,
                tensor=tensor,
            ) from error

    wanted = sorted(needed.items())
    readers = await for_each(wanted, open_shard, limit=_OPENED)
    return {
        number: indexing.files.add(reader)
        for (number, _), reader in zip(wanted, readers, strict=True)
    }


def _needed(index: BundleIndex, uri: str) -> dict[int, str]:
    """Return the shards that tensors are in, each with the first of them."""
    needed: dict[int, str] = {}
    for name, stored in _stretches(index.tensors):
        if not 0 <= stored.shard < index.shards:
            raise Corrupt(
                f"lies in shard {stored.shard} of {index.shards}; the index is damaged",
                uri=uri,
                tensor=name,
            )
        needed.setdefault(stored.shard, name)
    return needed


def _stretches(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """Yield (name of the tensor, stretch) of everything that is stored."""
    for name, stored in tensors.items():
        if stored.parts:
            yield from ((name, part) for _, part in stored.parts)
        else:
            yield name, stored


# --- entries -----------------------------------------------------------------------------


def _all_entries(
    index: BundleIndex, shards: Mapping[int, int], readers: list[Reader]
) -> dict[str, TensorEntry]:
    with collection_held():
        return _entries(index, shards, readers)


def _entries(
    index: BundleIndex, shards: Mapping[int, int], readers: list[Reader]
) -> dict[str, TensorEntry]:
    """Make the manifest's entries, once every stretch is within its shard and apart from others."""
    placed = [
        (shards[stored.shard], stored.offset, stored.length, name)
        for name, stored in _stretches(index.tensors)
    ]
    _check_places(placed, readers)
    return {name: _entry(name, stored, shards) for name, stored in index.tensors.items()}


def _check_places(placed: list[tuple[int, int, int, str]], readers: list[Reader]) -> None:
    file, end = -1, 0
    for number, offset, length, name in sorted(placed):
        reader = readers[number]
        if number != file:
            file, end = number, 0
        if offset < 0 or offset + length > reader.size:
            raise Corrupt(
                f"lies at bytes {offset:,} to {offset + length:,} of this shard, which has "
                f"{reader.size:,}. The shard is truncated, or the index is damaged; copy or "
                "download them again.",
                uri=reader.uri,
                tensor=name,
            )
        if length and offset < end:
            raise Corrupt(
                f"begins at byte {offset:,} of this shard, within the tensor before it, which "
                f"ends at {end:,}; the index is damaged",
                uri=reader.uri,
                tensor=name,
            )
        end = max(end, offset + length)


def _entry(name: str, stored: Stored, shards: Mapping[int, int]) -> TensorEntry:
    encoding: Encoding | None = None
    checksum: int | None = stored.crc32c
    if stored.parts:
        encoding, checksum = Partitioned(_parts(stored, shards)), None
    elif stored.dtype == STRING:
        encoding = Strings()
    return TensorEntry(
        name,
        stored.dtype,
        stored.shape,
        shards[stored.shard],
        stored.offset,
        stored.length,
        encoding,
        checksum,
    )


def _parts(stored: Stored, shards: Mapping[int, int]) -> tuple[Part, ...]:
    return tuple(
        Part(origin, part.shape, shards[part.shard], part.offset, part.length, part.crc32c)
        for origin, part in stored.parts
    )


# --- the object graph --------------------------------------------------------------------


async def _read_graph(indexing: Indexing, entry: TensorEntry) -> bytes:
    reader = indexing.files.readers[entry.file]
    try:
        if not isinstance(entry.encoding, Strings) or entry.shape:
            raise Corrupt(f"is {entry.dtype} of shape {entry.shape}; expected one string")
        if entry.length > _GRAPH_LIMIT:
            raise TooLarge(f"has {entry.length:,} bytes; the limit is {_GRAPH_LIMIT:,}")
        stored = await reader.read(entry.offset, entry.length)
        array = await indexing.workers.run_in_thread(decode_strings, entry, memoryview(stored))
    except AsyncloadError as error:
        error.uri, error.tensor = error.uri or reader.uri, entry.name
        raise
    graph: bytes = array.item()
    return graph
