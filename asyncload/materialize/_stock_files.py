"""What stock reads in the place of a file from elsewhere: written here, of what was checked.

The HDF5 library holds the GIL while it follows a damaged file's structures, for ever if they go
in circles. So it is only given files that it wrote itself. Imports no TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5p, h5s, h5t

from ._asset_files import write_asset
from ._positions import Order

__all__ = ["write_legacy", "write_model"]

Array = npt.NDArray[Any]

_WEIGHTS = "model.weights.h5"
_LEGACY = "model_weights"
_TOP, _OPTIMIZER = f"{_LEGACY}/top_level_model_weights", "optimizer_weights"
_VERSIONS = ("keras_version", "backend")
_ATTRIBUTE_LIMIT = 64_512  # bytes; as keras/src/legacy/saving/legacy_h5_format.py has it
_PIECE = 64 << 20  # bytes written at a time


def write_model(
    folder: str,
    documents: Mapping[str, bytes],
    arrays: Mapping[str, Array],
    assets: Mapping[str, bytes],
    *,
    uri: str,
) -> str:
    """Write a model as Keras 3 does with ``zipped=False``, and return its path.

    Args:
        folder: which is empty.
        documents: ``config.json`` and ``metadata.json``.
        arrays: dataset path -> array.
        assets: path below ``assets/`` -> bytes.
        uri: for messages.
    """
    model = Path(folder, "model")
    model.mkdir()
    for name, content in documents.items():
        write_asset(model, name, content, uri=uri)
    for name, content in assets.items():
        write_asset(model / "assets", name, content, uri=uri)
    path = model / _WEIGHTS
    with h5py.File(path, "w") as file:
        places = list(_place(file, arrays))
    _fill(path, places)
    return str(model)


def write_legacy(
    folder: str, documents: Mapping[str, bytes], order: Order, arrays: Mapping[str, Array]
) -> str:
    """Write a legacy HDF5 file as Keras does, and return its path.

    Args:
        folder: which is empty.
        documents: the texts of its attributes.
        order: of its weights.
        arrays: dataset path -> array.
    """
    path = Path(folder, "model.h5")
    with h5py.File(path, "w") as file:
        places = list(_place(file, arrays))
        weights = file.require_group(_LEGACY)
        for name, text in documents.items():
            file.attrs[name] = text.decode()
            if name in _VERSIONS:
                weights.attrs[name] = text.decode()
        _list_names(weights, "layer_names", [name for name, _ in order.layers])
        for name, paths in order.layers:
            _list_weights(file, f"{_LEGACY}/{name}", paths)
        if order.top is not None:
            _list_weights(file, _TOP, order.top)
        if order.optimizer is not None and arrays.keys() >= set(order.optimizer):
            _list_weights(file, _OPTIMIZER, order.optimizer)
    _fill(path, places)
    return str(path)


def _list_weights(file: Any, group: str, paths: Sequence[str]) -> None:
    names = [path.removeprefix(f"{group}/") for path in paths]
    _list_names(file.require_group(group), "weight_names", names)


def _list_names(group: Any, attribute: str, names: Sequence[str]) -> None:
    """Write a list of names, in several attributes where it is too long for one, as Keras does."""
    whole = np.asarray([name.encode() for name in names])
    parts, number = [whole], 1
    while any(part.nbytes > _ATTRIBUTE_LIMIT for part in parts):
        number += 1
        parts = np.array_split(whole, number)
    for index, part in enumerate(parts):
        group.attrs[attribute if number == 1 else f"{attribute}{index}"] = part


def _place(file: Any, arrays: Mapping[str, Array]) -> Iterator[tuple[int, Array]]:
    """Make datasets without values, and yield where in the file these belong."""
    create, link = h5p.create(h5p.DATASET_CREATE), h5p.create(h5p.LINK_CREATE)
    create.set_layout(h5d.CONTIGUOUS)
    create.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5d.FILL_TIME_NEVER)
    link.set_create_intermediate_group(True)
    link.set_char_encoding(h5t.CSET_UTF8)
    for name, array in arrays.items():
        dtype = array.dtype
        opaque = dtype.kind == "V"  # bfloat16 and others of ml_dtypes too, as Keras writes them
        stored = np.dtype(f"V{dtype.itemsize}") if opaque else dtype
        kind = h5t.py_create(stored, logical=True)
        space = h5s.create_simple(array.shape) if array.shape else h5s.create(h5s.SCALAR)
        dataset = h5d.create(file.id, name.encode(), kind, space, create, link)
        if opaque and dtype.isbuiltin == 2:
            h5py.Dataset(dataset).attrs["dtype"] = dtype.name
        if array.nbytes:
            yield dataset.get_offset(), array


def _fill(path: Path, places: Sequence[tuple[int, Array]]) -> None:
    # Not through the library, which would hold the GIL while it copies.
    with path.open("r+b", buffering=0) as file:
        for offset, array in places:
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            for start in range(0, len(content), _PIECE):
                piece = content[start : start + _PIECE]
                while piece:
                    written = os.pwrite(file.fileno(), piece, offset + start)
                    start, piece = start + written, piece[written:]  # noqa: PLW2901
