"""The HDF5 files that Keras 2 wrote, and Keras 3 still does: a model, or its weights.

A model has its config, and that of its training, in attributes of the root, and weights in
``/model_weights``; a file of weights has them in the root. Each layer's group lists its weights by
name, in an order that means them: trainable ones first
(keras/src/legacy/saving/legacy_h5_format.py, Keras 3.15).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from asyncload.errors import Corrupt, FormatError
from asyncload.interfaces import Bounds, Indexing
from asyncload.manifest import Manifest

from ._hdf5 import MAGIC, index_hdf5, read_structures
from ._weights_h5 import WeightsH5

__all__ = ["KerasH5", "without_legacy_optimizer"]

_SUFFIXES = (".h5", ".hdf5")
_ORDER = "weight_names"
_OPTIMIZER = "optimizer_weights/"


class KerasH5:
    """Format of ``*.h5``, and of HDF5 files by other names.

    Tensors are named by the path of their dataset (``model_weights/dense/dense/kernel:0``). Besides
    what the file's attributes say of the model, there is a document ``weight_names`` with
    the order of layers and weights (see `_hdf5_names.describe`). An HDF5 file that Keras did
    not write this way is indexed as `WeightsH5` does.
    """

    name = "keras-h5"
    costly = True

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name is that of an HDF5 file, or the bytes begin as one."""
        return name.endswith(_SUFFIXES) or head.startswith(MAGIC)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the file; its config is published before the weights are looked at."""
        describe = functools.partial(_describe, bounds=indexing.bounds)
        documents = await read_structures(indexing, 0, describe)
        if documents is None:
            return await WeightsH5().index(indexing)
        indexing.publish(documents)
        tensors = await index_hdf5(indexing, 0)
        await indexing.parse(
            _check_names,
            documents[_ORDER],
            list(tensors),
            indexing.left_out,
            indexing.source.uri,
        )
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
            left_out=indexing.left_out,
            documents=documents,
        )


def without_legacy_optimizer(manifest: Manifest) -> Manifest:
    """Leave out an optimizer's state, often two thirds of a file, where nothing asks for it."""
    if manifest.format != KerasH5.name:
        return manifest
    kept = {n: entry for n, entry in manifest.tensors.items() if not n.startswith(_OPTIMIZER)}
    return dataclasses.replace(manifest, tensors=kept)


def _describe(file: Any, *, bounds: Bounds) -> dict[str, bytes] | None:
    from ._hdf5_names import describe

    return describe(file, bounds)


def _check_names(
    order_json: bytes, tensors: list[str], left_out: Mapping[str, str], uri: str
) -> None:
    there = frozenset(tensors)
    order = json.loads(order_json)
    listed = [names for _, names in order["layers"]]
    for names in [*listed, order["top"] or (), order["optimizer"] or ()]:
        for name in names:
            if name in left_out:
                raise FormatError(left_out[name], uri=uri, tensor=name)
            if name not in there:
                raise Corrupt(
                    "is named in the file's attributes, but is not there. The file was damaged, or "
                    "not written to its end; save it again.",
                    uri=uri,
                    tensor=name,
                )
