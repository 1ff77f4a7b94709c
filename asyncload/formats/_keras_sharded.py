"""Sharded Keras weights: ``*.weights.json``, which says what is in which ``*.weights.h5``.

``{"metadata": {"total_size": ...}, "weight_map": {"/layers/dense/vars": "m_00000.weights.h5"}}``;
an object whose variables are in several files has a list of them (``ShardedH5IOStore`` in
keras/src/saving/saving_lib.py, Keras 3.15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asyncload.errors import Corrupt
from asyncload.interfaces import Indexing
from asyncload.manifest import Manifest, TensorEntry

from ._concurrent import for_each
from ._hdf5 import index_hdf5
from ._json import parse_json
from ._shards import AT_ONCE, check_beside, open_shards, read_map

__all__ = ["KerasSharded"]

_SUFFIX = ".weights.json"

# Path of an object's variables, as the map has it -> the files that hold them.
_WeightMap = dict[str, list[str]]


class KerasSharded:
    """Format of ``*.weights.json``: one manifest over all shards.

    Tensors are named as in a file that is not sharded (``layers/dense/vars/0``).
    """

    name = "keras-sharded"
    costly = True

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.weights.json``."""
        del head  # any JSON begins alike
        return name.endswith(_SUFFIX)

    async def gather(self, indexing: Indexing) -> None:
        """Open the shards that the map names."""
        await open_shards(indexing, _named(await self._read_map(indexing)))

    async def _read_map(self, indexing: Indexing) -> _WeightMap:
        reader = indexing.files.readers[0]
        return await indexing.parse(parse_map, await read_map(reader), reader.uri)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index every shard, several at once, and compare them with the map."""
        uri = indexing.files.readers[0].uri
        weight_map = await self._read_map(indexing)
        shards = _named(weight_map)

        async def index_shard(file: int) -> dict[str, TensorEntry]:
            return await index_hdf5(indexing, file, early=True)

        files = await open_shards(indexing, shards)
        found = await for_each(files, index_shard, limit=AT_ONCE)
        by_shard = dict(zip(shards, found, strict=True))
        tensors = await indexing.workers.run_in_thread(collect, weight_map, by_shard, uri)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
        )


def _named(weight_map: _WeightMap) -> list[str]:
    """Return each shard once."""
    return list(dict.fromkeys(name for names in weight_map.values() for name in names))


def parse_map(text: bytes, uri: str) -> _WeightMap:
    """Return the ``weight_map``: path of an object's variables -> files beside the map.

    Raises:
        Corrupt: there is none.
        Unsafe: it names a file elsewhere.
    """
    weight_map = parse_json(text, "the weight map", uri).get("weight_map")
    if not isinstance(weight_map, dict):
        raise Corrupt("has no weight_map: an object of paths and file names", uri=uri)
    return {path: _shards(path, named, uri) for path, named in weight_map.items()}


def _shards(path: str, named: Any, uri: str) -> list[str]:
    shards = named if isinstance(named, list) else [named]
    if not shards or not all(isinstance(shard, str) and shard for shard in shards):
        raise Corrupt("is not mapped to the names of files", uri=uri, tensor=path)
    if len(set(shards)) != len(shards):
        raise Corrupt("is mapped to the same file twice", uri=uri, tensor=path)
    for shard in shards:
        check_beside(shard, uri=uri, tensor=path)
    return shards


def collect(
    weight_map: Mapping[str, Sequence[str]],
    shards: Mapping[str, Mapping[str, TensorEntry]],
    uri: str,
) -> dict[str, TensorEntry]:
    """Return the tensors of all shards, in the map's order.

    Raises:
        Corrupt: one is where the map does not have it, or twice, or not where the map has it.
    """
    owners: dict[tuple[str, str], list[str]] = {}
    for shard, entries in shards.items():
        for tensor in entries:
            path = "/" + tensor.rpartition("/")[0]
            if shard not in weight_map.get(path, ()):
                raise Corrupt(
                    f"is in {shard!r}, where the map does not have it", uri=uri, tensor=tensor
                )
            owners.setdefault((path, shard), []).append(tensor)
    tensors: dict[str, TensorEntry] = {}
    for path, names in weight_map.items():
        for shard in names:
            if (path, shard) not in owners:
                raise Corrupt(f"is not in {shard!r}, where the map has it", uri=uri, tensor=path)
            for tensor in owners[path, shard]:
                if tensor in tensors:
                    raise Corrupt(f"is in {shard!r} and in another shard", uri=uri, tensor=tensor)
                tensors[tensor] = shards[shard][tensor]
    return tensors
