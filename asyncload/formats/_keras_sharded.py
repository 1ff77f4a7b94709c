"""Sharded Keras weights: ``*.weights.json``, which says what is in which ``*.weights.h5``.

``{"metadata": {"total_size": ...}, "weight_map": {"/layers/dense/vars": "m_00000.weights.h5"}}``;
an object whose variables are in several files has a list of them (``ShardedH5IOStore`` in
keras/src/saving/saving_lib.py, Keras 3.15). The map selects: a shard may hold more, which is left
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncload.errors import Corrupt
from asyncload.interfaces import Bounds, Indexing
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
        return await indexing.parse(parse_map, await read_map(reader), indexing.bounds, reader.uri)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index every shard, several at once, and take what the map names."""
        uri = indexing.files.readers[0].uri
        weight_map = await self._read_map(indexing)
        shards = _named(weight_map)

        async def index_shard(shard: tuple[str, int]) -> dict[str, TensorEntry]:
            name, file = shard

            def found(tensors: Mapping[str, TensorEntry]) -> None:
                indexing.found(selected(weight_map, name, tensors))

            return await index_hdf5(replace(indexing, found=found), file, early=True)

        files = await open_shards(indexing, shards)
        opened = list(zip(shards, files, strict=True))
        indexed = await for_each(opened, index_shard, limit=AT_ONCE)
        by_shard = dict(zip(shards, indexed, strict=True))
        tensors = await indexing.workers.run_in_thread(collect, weight_map, by_shard, uri)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
            left_out=indexing.left_out,
        )


def _named(weight_map: _WeightMap) -> list[str]:
    """Return each shard once."""
    return list(dict.fromkeys(name for names in weight_map.values() for name in names))


def parse_map(text: bytes, bounds: Bounds, uri: str) -> _WeightMap:
    """Return the ``weight_map``: path of an object's variables -> files beside the map.

    Raises:
        Corrupt: there is none.
        Unsafe: it names a file elsewhere.
    """
    weight_map = parse_json(text, "the weight map", uri).get("weight_map")
    if not isinstance(weight_map, dict):
        raise Corrupt("has no weight_map: an object of paths and file names", uri=uri)
    bounds.check_tensors(len(weight_map), uri, "objects with tensors")
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


def selected(
    weight_map: Mapping[str, Sequence[str]], shard: str, tensors: Mapping[str, TensorEntry]
) -> dict[str, TensorEntry]:
    """Return the tensors of a shard that the map has in it."""
    return {
        name: entry for name, entry in tensors.items() if shard in weight_map.get(_path(name), ())
    }


def _path(tensor: str) -> str:
    return "/" + tensor.rpartition("/")[0]


def collect(
    weight_map: Mapping[str, Sequence[str]],
    shards: Mapping[str, Mapping[str, TensorEntry]],
    uri: str,
) -> dict[str, TensorEntry]:
    """Return the tensors that the map names, in its order.

    Raises:
        Corrupt: one is not where the map has it, or is in two of its shards.
    """
    owners: dict[tuple[str, str], list[str]] = {}
    for shard, entries in shards.items():
        for tensor in selected(weight_map, shard, entries):
            owners.setdefault((_path(tensor), shard), []).append(tensor)
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
