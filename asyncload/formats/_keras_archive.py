"""The ``.keras`` archive that Keras 3 writes: a config, weights, and files of the layers' own.

A ZIP archive of ``metadata.json``, ``config.json``, ``model.weights.h5`` (or ``.npz``) and
``assets/<layer path>/<file>``; Keras stores its members uncompressed
(keras/src/saving/saving_lib.py, Keras 3.15).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncload.errors import Corrupt, TooLarge
from asyncload.interfaces import Bounds, Indexing
from asyncload.manifest import Manifest, TensorEntry

from . import _zip
from ._concurrent import for_each
from ._hdf5 import index_hdf5
from ._npz import index_npz
from ._ranges import Held

__all__ = [
    "ASSETS",
    "CONFIG",
    "METADATA",
    "WEIGHTS_H5",
    "WEIGHTS_NPZ",
    "KerasArchive",
    "document_limit",
]

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS_H5 = "model.weights.h5"
WEIGHTS_NPZ = "model.weights.npz"
ASSETS = "assets/"
# The largest configs of keras.applications are below 1 MiB; vocabularies stand in them, too.
_DOCUMENT_LIMIT = 64 << 20  # bytes, however little memory there is
_DOCUMENT_SHARE = 16  # parsed, it takes several times as much
# The loop's thread plans the reads of so many assets in less than a millisecond.
_BATCH = 128
_BATCHES = 4  # at a time


def document_limit(bounds: Bounds) -> int:
    """Return the bytes that a config may have."""
    return max(_DOCUMENT_LIMIT, bounds.memory // _DOCUMENT_SHARE)


class KerasArchive:
    """Format of ``*.keras``.

    The manifest's tensors have the names of their datasets in the weights file
    (``layers/dense/vars/0``), its assets that of their path below ``assets/``.
    """

    name = "keras"
    costly = True

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.keras``, or the bytes are those of a ZIP archive."""
        return name.endswith(".keras") or head.startswith(_zip.MAGIC)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the archive; its config is published before the weights are looked at."""
        reader = indexing.files.readers[0]
        archive = await _zip.open_archive(indexing, reader)
        weights, documents = _choose(archive.members, indexing.bounds, reader.uri)
        held = await archive.read([*map(_zip.whole, documents), _zip.head(weights)])
        found, base = await indexing.workers.run_in_thread(
            _open_members, held, documents, weights, reader.uri
        )
        indexing.publish(found)
        assets = await _index_assets(indexing, archive)
        tensors = await _index_weights(indexing, weights, base)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
            left_out=indexing.left_out,
            documents=found,
            assets=assets,
        )


def _choose(
    members: _zip.Directory, bounds: Bounds, uri: str
) -> tuple[_zip.Member, list[_zip.Member]]:
    """Return the weights' member, and those of the documents."""
    weights = members.get(WEIGHTS_H5) or members.get(WEIGHTS_NPZ)
    if CONFIG not in members or weights is None:
        missing = f"{WEIGHTS_H5} or {WEIGHTS_NPZ}" if CONFIG in members else CONFIG
        raise Corrupt(
            f"holds no member {missing}, as every Keras 3 archive does; it holds "
            f"{_some(members)}. Save the model again, with model.save('name.keras').",
            uri=uri,
        )
    documents = [members[name] for name in (METADATA, CONFIG) if name in members]
    limit = document_limit(bounds)
    for member in documents:
        if member.decoded > limit:
            raise TooLarge(
                f"member {member.name!r} has {member.decoded} bytes; at most {limit} are accepted. "
                "If it is genuine, load it with Loader(memory=...), of which a document may take a "
                "sixteenth.",
                uri=uri,
            )
    for member in (weights, *documents):
        _zip.check_method(member, uri)
    return weights, documents


def _some(members: Iterable[str]) -> str:
    names = sorted(members)
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "") or "nothing"


def _open_members(
    held: Held, documents: Sequence[_zip.Member], weights: _zip.Member, uri: str
) -> tuple[dict[str, bytes], int]:
    """Return the documents' bytes, and where the weights' data begins."""
    found = {}
    for member in documents:
        data = held.view(_data_offset(held, member, uri), member.stored)
        found[member.name] = _zip.content(data, member, uri)
    return found, _data_offset(held, weights, uri)


def _data_offset(held: Held, member: _zip.Member, uri: str) -> int:
    return _zip.data_offset(held.view(*_zip.head(member)), member, uri)


async def _index_weights(
    indexing: Indexing, member: _zip.Member, base: int
) -> dict[str, TensorEntry]:
    reader, file, length = indexing.files.readers[0], 0, member.stored
    if member.deflated:
        reader = await indexing.unpack(reader, base, member.stored, member.decoded, member.crc32)
        file, base, length = indexing.files.add(reader), 0, member.decoded
    if member.name == WEIGHTS_NPZ:
        tensors, _ = await index_npz(indexing, file, base=base, length=length)
        return tensors
    return await index_hdf5(indexing, file, base=base, length=length, early=True)


async def _index_assets(indexing: Indexing, archive: _zip.Archive) -> dict[str, TensorEntry]:
    members = [member for name, member in archive.members.items() if name.startswith(ASSETS)]

    async def index_batch(batch: Sequence[_zip.Member]) -> dict[str, TensorEntry]:
        held = await archive.read(map(_zip.head, batch))
        return await indexing.workers.run_in_thread(_asset_entries, held, batch, archive.reader.uri)

    batches = [members[first : first + _BATCH] for first in range(0, len(members), _BATCH)]
    entries: dict[str, TensorEntry] = {}
    for found in await for_each(batches, index_batch, limit=_BATCHES):
        entries |= found
    return entries


def _asset_entries(held: Held, members: Sequence[_zip.Member], uri: str) -> dict[str, TensorEntry]:
    entries = {}
    for member in members:
        _zip.check_method(member, uri)
        name = member.name.removeprefix(ASSETS)
        entries[name] = _zip.file_entry(name, member, _data_offset(held, member, uri), file=0)
    return entries
