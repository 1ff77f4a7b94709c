"""The attributes by which Keras 2 describes a model in an HDF5 file; runs in a worker process.

Attributes are where the HDF5 library is weakest with damaged files, so only these are read, only
from files that can have them, and within bounds. Their layout is that of
keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15).
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
from h5py import h5a, h5g, h5l, h5t

from asyncload.errors import Corrupt, TooLarge, Unsafe
from asyncload.interfaces import Bounds

from ._hdf5_file import OpenFile

__all__ = ["CONFIG", "ORDER", "describe"]

CONFIG = "model_config"
ORDER = "weight_names"
_DOCUMENTS = (CONFIG, "training_config", "keras_version", "backend")
_WEIGHTS = "model_weights"
_TOP = "top_level_model_weights"
_OPTIMIZER = "optimizer_weights"

# The largest config of keras.applications is below 1 MiB, and has 2,000 weights.
_TEXT_LIMIT = 64 << 20  # bytes, of all attributes together, however little memory there is
_TEXT_SHARE = 16  # of memory; parsed, a config takes several times as much
_NAME_LIMIT = 1_000_000  # names, of all attributes together
_NAMES_FOR_EACH = 4  # tensor that there may be


def describe(file: OpenFile, bounds: Bounds) -> dict[str, bytes] | None:
    """Return the documents of a model, or of a model's weights, as Keras 2 writes them.

    Args:
        file: open.
        bounds: what it may declare.

    Returns:
        ``model_config``, ``training_config``, ``keras_version`` and ``backend``, as far as they are
        there, and ``weight_names``: JSON of ``{"layers": [[name, [path, ...]], ...], "top": [path,
        ...] or null, "optimizer": [path, ...] or null}``, paths being those of datasets. ``None``
        for an HDF5 file of another kind.

    Raises:
        Corrupt: an attribute is of another type, or a group that it names is missing.
        TooLarge: there are more names, or longer ones, than any model has.
        Unsafe: a group that it names is a link.
    """
    root = h5g.open(file.id, b"/")
    found = _Describer(file.uri, bounds)
    if not found.is_legacy(root):
        return None
    sizes = file.id.get_create_plist().get_sizes()
    if sizes != (8, 8):  # as h5py writes them; heaps of other files would not be looked at
        raise Corrupt(f"has addresses and lengths of {sizes} bytes; expected 8", uri=file.uri)
    return found.describe(root)


class _Describer:
    def __init__(self, uri: str, bounds: Bounds) -> None:
        self._uri = uri
        self._text_limit = max(_TEXT_LIMIT, bounds.memory // _TEXT_SHARE)
        several = None if bounds.tensors is None else _NAMES_FOR_EACH * bounds.tensors
        self._name_limit = None if several is None else max(_NAME_LIMIT, several)
        self._text = 0
        self._names = 0

    def is_legacy(self, root: Any) -> bool:
        """Whether Keras wrote this as a model, or as a model's weights."""
        weights, _ = self._weights(root)
        return h5a.exists(root, CONFIG.encode()) or _has_names(weights, "layer_names")

    def _weights(self, root: Any) -> tuple[Any, str]:
        """Return the group of the weights, and how the paths of what is in it begin."""
        if _has_names(root, "layer_names") or _WEIGHTS.encode() not in root:
            return root, ""
        return self._group(root, _WEIGHTS), f"{_WEIGHTS}/"

    def describe(self, root: Any) -> dict[str, bytes]:
        weights, prefix = self._weights(root)
        if h5a.exists(root, CONFIG.encode()) and not prefix:
            raise Corrupt(
                f"has a {CONFIG}, but no group {_WEIGHTS!r}. Save the model again.", uri=self._uri
            )
        order = {
            "layers": self._layers(weights, prefix),
            "top": self._listed(weights, prefix, _TOP),
            "optimizer": self._listed(root, "", _OPTIMIZER) if prefix else None,
        }
        found = {
            name: text
            for holder in (weights, root)  # Keras states its version in both
            for name in _DOCUMENTS
            if (text := self._document(holder, name)) is not None
        }
        return {**found, ORDER: json.dumps(order).encode()}

    def _layers(self, weights: Any, prefix: str) -> list[tuple[str, list[str]]]:
        layers = []
        for name in self._names_of(weights, "layer_names"):
            group = self._group(weights, name)
            layers.append((name, self._paths(group, f"{prefix}{name}/")))
        return layers

    def _listed(self, parent: Any, prefix: str, name: str) -> list[str] | None:
        if name.encode() not in parent:
            return None
        return self._paths(self._group(parent, name), f"{prefix}{name}/")

    def _paths(self, group: Any, prefix: str) -> list[str]:
        return [prefix + name for name in self._names_of(group, "weight_names")]

    def _group(self, parent: Any, path: str) -> Any:
        """Open a group below another, without following a link."""
        for part in path.split("/"):
            name = part.encode(errors="surrogateescape")
            if not part or part == "." or name not in parent:
                raise Corrupt(
                    f"names a group {path!r} that it does not hold; it was damaged, or not written "
                    "to its end. Save it again.",
                    uri=self._uri,
                )
            if parent.links.get_info(name).type != h5l.TYPE_HARD:
                raise Unsafe(
                    f"holds {path!r}, which is a link; only objects of the file itself are read. "
                    "Copy what it points to into the file.",
                    uri=self._uri,
                )
            parent = h5g.open(parent, name)
        return parent

    # --- attributes ----------------------------------------------------------------------

    def _document(self, holder: Any, name: str) -> bytes | None:
        if not h5a.exists(holder, name.encode()):
            return None
        attribute = h5a.open(holder, name.encode())
        if attribute.shape != ():
            raise self._wrong(name, "one text")
        return self._read(attribute, name)[0]

    def _names_of(self, holder: Any, name: str) -> list[str]:
        """Return a list of names; Keras splits a long one over ``name0``, ``name1``, and so on."""
        if h5a.exists(holder, name.encode()):
            return self._list(holder, name)
        names: list[str] = []
        for number in itertools.count():
            if not h5a.exists(holder, f"{name}{number}".encode()):
                return names
            names += self._list(holder, f"{name}{number}")
        raise AssertionError  # counting does not end

    def _list(self, holder: Any, name: str) -> list[str]:
        attribute = h5a.open(holder, name.encode())
        if attribute.shape is None or len(attribute.shape) != 1:
            raise self._wrong(name, "a list of names")
        if not attribute.shape[0]:
            return []  # of numbers, which is how h5py writes an empty list
        return [_decoded(text, self._uri) for text in self._read(attribute, name)]

    def _read(self, attribute: Any, name: str) -> list[bytes]:
        if attribute.get_type().get_class() != h5t.STRING:
            raise self._wrong(name, "text")
        self._names += math.prod(attribute.shape)
        if self._name_limit is not None and self._names > self._name_limit:
            raise TooLarge(
                f"lists {self._names} names and texts in its attributes; at most "
                f"{self._name_limit} are accepted. If it is genuine, load it with "
                "Loader(max_tensors=None).",
                uri=self._uri,
            )
        self._count(attribute.get_storage_size(), name)
        values = np.empty(attribute.shape, attribute.dtype)
        attribute.read(values)
        texts = [_encoded(text) for text in values.ravel().tolist()]
        if values.dtype.kind == "O":  # what was counted were references to the texts
            self._count(sum(map(len, texts)), name)
        return texts

    def _count(self, nbytes: int, name: str) -> None:
        self._text += nbytes
        if self._text > self._text_limit:
            raise TooLarge(
                f"has {self._text} bytes in its attributes up to {name!r}; at most "
                f"{self._text_limit} are accepted. If it is genuine, load it with "
                "Loader(memory=...), of which they may take a sixteenth.",
                uri=self._uri,
            )

    def _wrong(self, name: str, expected: str) -> Corrupt:
        return Corrupt(
            f"its attribute {name!r} is not {expected}, as Keras writes it. Save the file again.",
            uri=self._uri,
        )


def _has_names(group: Any, name: str) -> bool:
    return bool(h5a.exists(group, name.encode()) or h5a.exists(group, f"{name}0".encode()))


def _encoded(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="surrogateescape")


def _decoded(text: bytes, uri: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"its attributes name {text!r}, which is not UTF-8", uri=uri) from error
