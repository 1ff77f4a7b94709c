"""Sharded safetensors: ``*.safetensors.index.json``, which says what tensor is in which file.

The index selects: a shard may hold more, which is left alone.

``{"metadata": {...}, "weight_map": {"<tensor>": "<file in the same folder>"}}``, as
huggingface_hub writes it (huggingface_hub/serialization/_base.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncload.errors import Corrupt
from asyncload.interfaces import Bounds, Indexing, Reader
from asyncload.manifest import Manifest, TensorEntry

from ._concurrent import for_each
from ._json import parse_json
from ._safetensors import SUFFIX, Header, read_header
from ._shards import AT_ONCE, check_beside, open_shard, open_shards, read_map

__all__ = ["SafetensorsIndex"]

_INDEX_SUFFIX = SUFFIX + ".index.json"


class SafetensorsIndex:
    """Format of ``*.safetensors.index.json``: one manifest over all shards."""

    name = "safetensors-index"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.safetensors.index.json``."""
        del head  # any JSON begins alike
        return name.endswith(_INDEX_SUFFIX)

    async def gather(self, indexing: Indexing) -> None:
        """Open the shards that the map names."""
        weight_map = await self._read_map(indexing)
        await open_shards(indexing, list(dict.fromkeys(weight_map.values())))

    async def _read_map(self, indexing: Indexing) -> dict[str, str]:
        reader = indexing.files.readers[0]
        return await indexing.parse(
            parse_index, await read_map(reader), indexing.bounds, reader.uri
        )

    async def index(self, indexing: Indexing) -> Manifest:
        """Index every shard, several at once, and take what the map names."""
        weight_map = await self._read_map(indexing)
        shards = list(dict.fromkeys(weight_map.values()))
        first = len(indexing.files.readers)

        async def open_numbered(numbered: tuple[int, str]) -> tuple[Reader, Header]:
            number, name = numbered
            shard = await open_shard(indexing, name)
            return shard, await read_header(indexing, shard, first + number)

        opened = await for_each(list(enumerate(shards)), open_numbered, limit=AT_ONCE)
        for shard, _ in opened:
            indexing.files.add(shard)
        headers = {name: header for name, (_, header) in zip(shards, opened, strict=True)}
        tensors = await indexing.workers.run_in_thread(
            _collect, weight_map, headers, indexing.files.readers[0].uri
        )
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
        )


def parse_index(text: bytes, bounds: Bounds, uri: str) -> dict[str, str]:
    """Return the ``weight_map``: tensor -> name of a file beside the index.

    Raises:
        Corrupt: there is none.
        Unsafe: it names a file elsewhere.
    """
    weight_map = parse_json(text, "the index", uri).get("weight_map")
    if not isinstance(weight_map, dict):
        raise Corrupt("has no weight_map: an object of tensor names and file names", uri=uri)
    bounds.check_tensors(len(weight_map), uri)
    for tensor, shard in weight_map.items():
        _check_shard(tensor, shard, uri)
    return weight_map


def _check_shard(tensor: str, shard: Any, uri: str) -> None:
    if not isinstance(shard, str) or not shard:
        raise Corrupt("is not mapped to a file's name", uri=uri, tensor=tensor)
    check_beside(shard, uri=uri, tensor=tensor)


def _collect(
    weight_map: Mapping[str, str], headers: Mapping[str, Header], uri: str
) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for tensor, shard in weight_map.items():
        entry = headers[shard].tensors.get(tensor)
        if entry is None:
            raise Corrupt(f"is not in {shard!r}, where the index has it", uri=uri, tensor=tensor)
        tensors[tensor] = entry
    return tensors
