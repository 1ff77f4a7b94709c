"""Checkpoints of TensorFlow's first format, which its Saver wrote by default until late 2016.

One file, or several shards, each a table whose first entry describes tensors and whose others hold
them (tensorflow/core/util/saved_tensor_slice.proto). They are recognised, and not read.
"""

from __future__ import annotations

import re

from asyncload.errors import FormatError, NotFound, UnknownFormat
from asyncload.interfaces import Indexing, Reader
from asyncload.manifest import Manifest

from ._leveldb import MAGIC

__all__ = ["CheckpointV1", "refuse_v1"]

_HEAD = 16  # bytes
# The first entry of a table: an empty key, and a SavedTensorSlices that has a description of a
# tensor. A number before each says how long it is.
_BEGIN = re.compile(rb"\0\0[\x80-\xff]{0,4}[\0-\x7f]\n[\x80-\xff]{0,4}[\0-\x7f]\n")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_ANY_SHARD = re.compile(r"-\?{5}-of-\d{5}$")  # as a state file names several


class CheckpointV1:
    """Format of such a file, which has any name; indexing it raises what to do instead."""

    name = "checkpoint-v1"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether it begins as such a table does; names tell nothing."""
        del name
        return _BEGIN.match(head) is not None

    async def index(self, indexing: Indexing) -> Manifest:
        """Raise what the file is."""
        await _refuse(indexing.files.readers[0])
        raise UnknownFormat(
            "begins as a checkpoint of TensorFlow's first format, and ends as none; it is "
            "truncated, or something else",
            uri=indexing.source.uri,
        )


async def refuse_v1(indexing: Indexing, prefix: str) -> None:
    """Raise what is at a prefix that has no index, if it is a checkpoint of the first format.

    Raises:
        FormatError: it is.
    """
    prefix = _ANY_SHARD.sub("", prefix)
    names = [prefix]
    folder, _, name = prefix.rpartition("/")
    if not folder and (listed := await indexing.source.list()) is not None:
        names += [each for each in listed if _is_shard(each, name)][:1]
    for each in names:
        try:
            await _refuse(await indexing.source.open(each))
        except NotFound:
            continue


def _is_shard(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and _SHARD.fullmatch(name[len(prefix) :]) is not None


async def _refuse(reader: Reader) -> None:
    head = await reader.read(0, min(_HEAD, reader.size))
    length = min(len(MAGIC), reader.size)
    tail = await reader.read(reader.size - length, length)
    if _BEGIN.match(head) and tail == MAGIC:
        raise FormatError(
            "is a checkpoint of TensorFlow's first format (V1), which is not read. Convert it once "
            "with TensorFlow: docs/formats.md shows how.",
            uri=reader.uri,
        )
