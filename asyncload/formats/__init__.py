"""What bytes mean: one file for each format, which turns a layout into a `Manifest`.

- formats: ``_keras_archive``, ``_weights_h5``, ``_keras_sharded``, ``_keras_h5``, ``_safetensors``,
  ``_safetensors_index``, ``_npz``
- what they are made of, parsed as untrusted: ``_zip``, ``_hdf5`` (``_hdf5_*``), ``_npy``, ``_json``
- small reads side by side, and sizes that can be true: ``_ranges``, ``_concurrent``, ``_shape``
"""

from __future__ import annotations

from asyncload.errors import UnknownFormat
from asyncload.interfaces import Format

from ._keras_archive import KerasArchive
from ._keras_h5 import KerasH5, without_legacy_optimizer
from ._keras_sharded import KerasSharded
from ._npz import Npy, Npz
from ._safetensors import Safetensors
from ._safetensors_index import SafetensorsIndex
from ._weights_h5 import WeightsH5

__all__ = ["FORMATS", "detect", "without_legacy_optimizer"]

FORMATS: tuple[Format, ...] = (
    KerasArchive(),
    WeightsH5(),
    KerasSharded(),
    KerasH5(),
    SafetensorsIndex(),
    Safetensors(),
    Npz(),
    Npy(),
)


def detect(name: str, head: bytes, *, uri: str) -> Format:
    """Return the format of a file: by its name, or else by how it begins.

    Args:
        name: the last part of its URI's path.
        head: its first bytes, up to 16.
        uri: for messages.

    Raises:
        UnknownFormat: it is none of `FORMATS`.
    """
    lower = name.lower()
    for evidence in ((lower, b""), ("", head)):
        for candidate in FORMATS:
            if candidate.matches(*evidence):
                return candidate
    known = ", ".join(candidate.name for candidate in FORMATS)
    found = f"begins with {head!r}" if head else "is empty"
    raise UnknownFormat(
        f"is of no known format: {name!r} has no known ending and {found}. Known are {known}; "
        "give the file the usual ending if it is one of them.",
        uri=uri,
    )
