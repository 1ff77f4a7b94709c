"""The folder that Keras 3 saves with ``zipped=False``: the members of an archive as files.

``metadata.json``, ``config.json``, ``model.weights.h5`` (or ``.npz``) and ``assets/<layer
path>/<file>`` (``_save_model_to_dir`` in keras/src/saving/saving_lib.py, Keras 3.15).
"""

from __future__ import annotations

from collections.abc import Collection

from asyncload.errors import NotFound, SourceError, TooLarge
from asyncload.interfaces import Indexing, Reader
from asyncload.manifest import Manifest, TensorEntry

from ._concurrent import for_each
from ._hdf5 import index_hdf5
from ._keras_archive import ASSETS, CONFIG, METADATA, WEIGHTS_H5, WEIGHTS_NPZ, document_limit
from ._npz import index_npz

__all__ = ["KerasFolder"]

_AT_ONCE = 8  # files that are opened together


class KerasFolder:
    """Format of such a folder; its manifest is that of the archive, over several files."""

    name = "keras-folder"
    costly = True

    def matches(self, name: str, head: bytes) -> bool:
        """Whether a file alone is of this format: none is."""
        del name, head
        return False

    def is_in(self, names: Collection[str]) -> bool:
        """Whether a folder with a config has weights of Keras, too; others have configs as well."""
        return WEIGHTS_H5 in names or WEIGHTS_NPZ in names

    async def gather(self, indexing: Indexing) -> None:
        """Open all files of the model."""
        for each in (await _open(indexing, METADATA), await _weights(indexing)):
            if each is not None:
                indexing.files.add(each)
        await _open_assets(indexing)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the folder; its config is published before the weights are looked at."""
        documents = {CONFIG: await _read(indexing, indexing.files.readers[0])}
        metadata = await _open(indexing, METADATA)
        if metadata is not None:
            indexing.files.add(metadata)
            documents[METADATA] = await _read(indexing, metadata)
        indexing.publish(documents)
        weights = await _weights(indexing)
        file = indexing.files.add(weights)
        if weights.name == WEIGHTS_NPZ:
            tensors, _ = await index_npz(indexing, file)
        else:
            tensors = await index_hdf5(indexing, file, early=True)
        assets = await _open_assets(indexing)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
            documents=documents,
            assets=assets,
            left_out=indexing.left_out,
        )


async def _open(indexing: Indexing, name: str) -> Reader | None:
    try:
        return await indexing.source.open(name)
    except SourceError as error:
        if not error.may_be_absent:
            raise
        return None


async def _weights(indexing: Indexing) -> Reader:
    for name in (WEIGHTS_H5, WEIGHTS_NPZ):
        if (found := await _open(indexing, name)) is not None:
            return found
    raise NotFound(
        f"has a {CONFIG}, but neither {WEIGHTS_H5} nor {WEIGHTS_NPZ}, as every folder has that "
        "Keras saved. Copy all of it, or save the model again.",
        uri=indexing.source.uri,
    )


async def _read(indexing: Indexing, reader: Reader) -> bytes:
    limit = document_limit(indexing.bounds)
    if reader.size > limit:
        raise TooLarge(
            f"has {reader.size:,} bytes; at most {limit:,} are accepted. If it is genuine, load it "
            "with Loader(memory=...), of which a document may take a sixteenth.",
            uri=reader.uri,
        )
    return await reader.read(0, reader.size)


async def _open_assets(indexing: Indexing) -> dict[str, TensorEntry]:
    """Open what lies below ``assets/``; a server that lists no folders has none."""
    try:
        listed = await indexing.source.entries(recursive=True)
    except SourceError as error:
        if not error.may_be_absent:
            raise
        return {}
    names = [entry.name for entry in listed if entry.name.startswith(ASSETS)]
    entries: dict[str, TensorEntry] = {}
    for reader in await for_each(names, indexing.source.open, limit=_AT_ONCE):
        file, name = indexing.files.add(reader), reader.name.removeprefix(ASSETS)
        entries[name] = TensorEntry(name, "uint8", (reader.size,), file, 0, reader.size)
    return entries
