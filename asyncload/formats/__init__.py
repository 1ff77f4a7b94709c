"""What bytes mean: one file for each format, which turns a layout into a `Manifest`.

- formats: ``_keras_archive``, ``_keras_folder``, ``_weights_h5``, ``_keras_sharded``,
  ``_keras_h5``, ``_safetensors``, ``_safetensors_index``, ``_npz``, ``_tensor_bundle``,
  ``_saved_model``, ``_checkpoint_v1``
- what they are made of, parsed as untrusted: ``_zip``, ``_hdf5`` (``_hdf5_*``), ``_npy``,
  ``_json``, ``protobuf``, ``_text_proto``, ``_checkpoint_state``; ``_bundle_index`` with
  ``_leveldb`` and ``_ordered_code``
- small reads side by side, and sizes that can be true: ``_ranges``, ``_concurrent``, ``_shape``
"""

from __future__ import annotations

from collections.abc import Collection

from asyncload.errors import UnknownFormat
from asyncload.interfaces import Format

from ._checkpoint_state import STATE_FILE
from ._checkpoint_v1 import CheckpointV1
from ._keras_archive import CONFIG, KerasArchive
from ._keras_folder import KerasFolder
from ._keras_h5 import KerasH5, without_legacy_optimizer
from ._keras_sharded import KerasSharded
from ._npz import Npy, Npz
from ._safetensors import Safetensors
from ._safetensors_index import SafetensorsIndex
from ._saved_model import PROGRAMS, SAVED_MODEL, WARMUP_REQUESTS, SavedModel
from ._something_else import BEGINNING, something_else
from ._tensor_bundle import INDEX_SUFFIX, TensorBundle
from ._weights_h5 import WeightsH5

__all__ = [
    "BEGINNING",
    "FOLDERS",
    "FORMATS",
    "PREFIXES",
    "PROGRAMS",
    "SAVED_MODEL",
    "WARMUP_REQUESTS",
    "detect",
    "detect_by_name",
    "detect_folder",
    "something_else",
    "without_legacy_optimizer",
]

_SAVED_MODEL, _TENSOR_BUNDLE, _KERAS_FOLDER = SavedModel(), TensorBundle(), KerasFolder()

FORMATS: tuple[Format, ...] = (
    KerasArchive(),
    _KERAS_FOLDER,
    WeightsH5(),
    KerasSharded(),
    KerasH5(),
    SafetensorsIndex(),
    Safetensors(),
    Npz(),
    Npy(),
    _SAVED_MODEL,
    _TENSOR_BUNDLE,
    CheckpointV1(),
)
# (file, format): a folder that has this file is of this format; the first one decides. The file is
# ``readers[0]`` for `Format.index`.
FOLDERS: tuple[tuple[str, Format], ...] = (
    *((name, _SAVED_MODEL) for name in PROGRAMS),
    (STATE_FILE, _TENSOR_BUNDLE),
    (CONFIG, _KERAS_FOLDER),
)
# (ending, format): a URI that names nothing, but would with this ending, is of this format; that
# file is ``readers[0]``.
PREFIXES: tuple[tuple[str, Format], ...] = ((INDEX_SUFFIX, _TENSOR_BUNDLE),)
_SHOWN = 16  # bytes, in a message
_NAMED = 3  # of the files in a folder, in a message


def detect(name: str, head: bytes, *, uri: str) -> Format:
    """Return the format of a file: by its name, or else by how it begins.

    Args:
        name: the last part of its URI's path.
        head: its first bytes, up to `BEGINNING`.
        uri: for messages.

    Raises:
        UnknownFormat: it is none of `FORMATS`.
    """
    by_name = detect_by_name(name)
    if by_name is not None:
        return by_name
    for candidate in FORMATS:
        if candidate.matches("", head):
            return candidate
    known = ", ".join(candidate.name for candidate in FORMATS)
    found = something_else(name, head, None)
    if found is None:
        begins = f"begins with {head[:_SHOWN]!r}" if head else "is empty"
        found = f"{begins}. Give the file the usual ending if it is of one of them."
    raise UnknownFormat(
        f"is of no known format ({known}): {name!r} has no known ending and {found}", uri=uri
    )


def detect_by_name(name: str) -> Format | None:
    """Return the format of a file of this name; ``None`` where only its bytes can tell."""
    lower = name.lower()
    return next((each for each in FORMATS if each.matches(lower, b"")), None)


def detect_folder(names: Collection[str], *, uri: str) -> tuple[str, Format]:
    """Return by which of its files a folder is of a format, and that format.

    Args:
        names: what is in the folder.
        uri: for messages.

    Raises:
        UnknownFormat: it is of none.
    """
    for member, candidate in FOLDERS:
        if member in names and (candidate is not _KERAS_FOLDER or _KERAS_FOLDER.is_in(names)):
            return member, candidate
    looked_for = " or ".join(f"{member!r} ({each.name})" for member, each in FOLDERS)
    endings = tuple(ending for ending, _ in PREFIXES)
    prefixes = sorted(name.rpartition(".")[0] for name in names if name.endswith(endings))
    hint = f"such as {', '.join(prefixes[:_NAMED])}" if prefixes else "such as model.keras"
    raise UnknownFormat(
        f"is a folder of no known format: it has no file {looked_for}. Name what in it you want, "
        f"{hint}.",
        uri=uri,
    )
