"""SavedModel: a folder with a program, the checkpoint of its variables, and its assets.

``saved_model.pb`` is a SavedModel protocol buffer, ``saved_model.pbtxt`` the same as text;
``variables/variables.index`` and its data files are a checkpoint; ``assets/`` has the files that
the program names; ``assets.extra/`` has requests to warm it up with, if any
(tensorflow/cc/saved_model/README.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asyncload.errors import Corrupt, NotFound, SourceError, TooLarge
from asyncload.interfaces import Indexing, Reader
from asyncload.manifest import Manifest, TensorEntry

from ._concurrent import for_each
from ._tensor_bundle import INDEX_SUFFIX, OBJECT_GRAPH, Bundle, index_bundle
from ._text_proto import strings
from .protobuf import BYTES, as_text, as_view, fields

__all__ = ["PROGRAMS", "SAVED_MODEL", "WARMUP_REQUESTS", "SavedModel"]

SAVED_MODEL = "saved_model.pb"
_AS_TEXT = "saved_model.pbtxt"
PROGRAMS = (SAVED_MODEL, _AS_TEXT)  # names of a program; the first one there is counts
WARMUP_REQUESTS = "assets.extra/tf_serving_warmup_requests"
_VARIABLES = "variables"
_LIMIT = 2 << 30  # bytes; protocol buffers' own
_OPENED = 8  # assets at a time

# Fields: SavedModel.meta_graphs; MetaGraphDef.collection_def, .asset_file_def;
# AssetFileDef.filename. TensorFlow 1 has a collection of AssetFileDef instead: an entry of the map
# has its name and its CollectionDef, which has any_list; AnyList.value; Any.value.
_META_GRAPHS, _COLLECTION_DEF, _ASSET_FILE_DEF, _FILENAME = 2, 4, 6, 2
_KEY, _VALUE, _ANY_LIST, _ANY, _CONTENT = 1, 2, 5, 1, 2
_ASSETS = b"saved_model_assets"
_ASSET = b"tensorflow.AssetFileDef"


class SavedModel:
    """Format of a SavedModel's folder, or of the ``saved_model.pb`` in it.

    The tensors are those of the checkpoint. The program and the checkpoint's object graph become
    documents; the assets, with their folder's name, and the warm-up requests become assets.
    """

    name = "saved-model"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name is that of a program; protocol buffers begin with nothing special."""
        del head
        return name in PROGRAMS

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the folder; the program is published before the checkpoint is looked at."""
        program = indexing.files.readers[0]
        if program.size >= _LIMIT:
            raise TooLarge(f"has {program.size:,} bytes; the limit is {_LIMIT:,}", uri=program.uri)
        content = await program.read(0, program.size)
        if (program.name or indexing.source.name) == _AS_TEXT:
            documents = {_AS_TEXT: content}
            names = await indexing.parse(asset_names_in_text, content, program.uri)
        else:
            documents = {SAVED_MODEL: content}
            names = await indexing.workers.run_in_thread(asset_names, content, program.uri)
        indexing.publish(documents)
        bundle = await _index_variables(indexing)
        if bundle.object_graph is not None:
            documents[OBJECT_GRAPH] = bundle.object_graph
        assets = await _open_assets(indexing, [f"assets/{name}" for name in names])
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=bundle.tensors,
            documents=documents,
            assets=assets,
        )

    async def gather(self, indexing: Indexing) -> None:
        """Open what the program and its variables' index name, which have to be read for that."""
        await self.index(indexing)


def asset_names(program: bytes, uri: str) -> list[str]:
    """Return the names of the files below ``assets/`` that a program refers to.

    Raises:
        Corrupt: it is no SavedModel.
    """
    try:
        names = list(dict.fromkeys(_asset_names(program)))
    except Corrupt as error:
        error.uri = uri
        raise
    if not program:
        raise Corrupt("is empty; copy or export the model again", uri=uri)
    return names


def asset_names_in_text(program: bytes, uri: str) -> list[str]:
    """Return what `asset_names` does, of a program as text; raises as that does."""
    try:
        return list(dict.fromkeys(_asset_names_in_text(program)))
    except Corrupt as error:
        error.uri = uri
        raise


def _asset_names_in_text(program: bytes) -> Iterator[str]:
    kind = b""
    for path, value in strings(program):
        *within, field = path
        holder = within[-1] if within else b""
        if field == b"filename" and (holder == b"asset_file_def" or _ASSET in holder):
            yield as_text(memoryview(value))
        elif field == b"type_url":
            kind = value
        elif field == b"value" and within[-2:] == [b"any_list", b"value"] and _ASSET in kind:
            yield from (as_text(name) for name in _below(memoryview(value), _FILENAME))


def _asset_names(program: bytes) -> Iterator[str]:
    for number, wire, graph in fields(program):
        if number != _META_GRAPHS or wire != BYTES:
            continue
        for inner, _, part in fields(as_view(graph)):
            assets: Iterable[memoryview] = ()
            if inner == _ASSET_FILE_DEF:
                assets = (as_view(part),)
            elif inner == _COLLECTION_DEF and _ASSETS in [*_below(as_view(part), _KEY)]:
                assets = _below(as_view(part), _VALUE, _ANY_LIST, _ANY, _CONTENT)
            for asset in assets:
                yield from (as_text(name) for name in _below(asset, _FILENAME))


def _below(message: memoryview, *numbers: int) -> Iterator[memoryview]:
    """Yield the fields of the last number, within those of the numbers before."""
    first, *rest = numbers
    for number, wire, value in fields(message):
        if number == first and wire == BYTES:
            yield from _below(as_view(value), *rest) if rest else (as_view(value),)


async def _index_variables(indexing: Indexing) -> Bundle:
    """Index the checkpoint; without an index there are no variables, folder or not.

    Raises:
        NotFound: there are shards, but no index.
    """
    prefix = f"{_VARIABLES}/{_VARIABLES}"
    names = await _listed(indexing)
    if names is not None and _VARIABLES not in names:
        return Bundle({}, None)
    try:
        index = await indexing.source.open(prefix + INDEX_SUFFIX)
    except SourceError as error:
        if not (error.may_be_absent if names is None else isinstance(error, NotFound)):
            raise
        if names is not None and await _has_shards(indexing, prefix):
            raise NotFound(
                "is missing, though its shards are there; copy all of the SavedModel's folder",
                uri=error.uri,
            ) from error
        return Bundle({}, None)
    indexing.files.add(index)
    return await index_bundle(indexing, prefix, opened=index)


async def _listed(indexing: Indexing) -> list[str] | None:
    """Return the names in the folder; ``None`` where they cannot be had."""
    try:
        return await indexing.source.list()
    except SourceError as error:
        # Servers list no folders, and stores not to everybody.
        if not error.may_be_absent:
            raise
        return None


async def _has_shards(indexing: Indexing, prefix: str) -> bool:
    entries = await indexing.source.entries(recursive=True)
    return any(entry.name.startswith(f"{prefix}.data-") for entry in entries)


async def _open_assets(indexing: Indexing, names: list[str]) -> dict[str, TensorEntry]:
    async def open_asset(name: str) -> Reader | None:
        try:
            return await indexing.source.open(name)
        except SourceError as error:
            if name == WARMUP_REQUESTS and error.may_be_absent:
                return None
            if not isinstance(error, NotFound):
                raise
            raise Corrupt(
                f"its asset {name!r} is missing; copy all of the SavedModel's folder",
                uri=indexing.source.uri,
            ) from error

    wanted = [*names, WARMUP_REQUESTS]
    readers = await for_each(wanted, open_asset, limit=_OPENED)
    return {
        name: TensorEntry(name, "uint8", (reader.size,), indexing.files.add(reader), 0, reader.size)
        for name, reader in zip(wanted, readers, strict=True)
        if reader is not None
    }
