"""The construction thread's side of `Loader.load_into`: new values for an object that lives.

How a kind of file goes into a kind of object is the business of an `Assignment` in materialize/; a
new one gets a line in `_make`.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from asyncload.errors import FormatError
from asyncload.manifest import Manifest

from ._extra import wanting_tensorflow
from ._options import IntoOptions, not_applicable
from ._to_end import run_to_end

__all__ = ["Assignment", "Into"]

Array = npt.NDArray[Any]


class Assignment(Protocol):
    """New values for an object; made and called on the construction thread.

    Making it raises if the object is of a kind that the file cannot be loaded into.
    """

    def assign(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        """Give the object its new values, all of them, or raise and leave it as it was.

        Raises:
            MismatchError: file and object do not fit; names everything that does not.
            CannotBuildFast: only `Stock.load_stock` can do it.
        """
        ...


@runtime_checkable
class Stock(Protocol):
    """An `Assignment` that can leave its work to TensorFlow."""

    def load_stock(self, path: str) -> None:
        """Give the object the values of a checkpoint as TensorFlow itself does.

        Args:
            path: the prefix of the checkpoint's files.

        Raises:
            MismatchError: TensorFlow could not do it.
        """
        ...


class Into:
    """A load into an object that lives, as the loop's thread sees it.

    Args:
        target: the object.
        options: how.
        builder: the construction thread.
        uri: for messages.
    """

    def __init__(self, target: Any, options: IntoOptions, builder: Executor, *, uri: str) -> None:
        self._target = target
        self._options = options
        self._builder = builder
        self._uri = uri
        self._assignment: Assignment | None = None

    async def choose(self, manifest: Manifest) -> None:
        """Find how this file goes into the object.

        Raises:
            FormatError: what the file is cannot be loaded into anything, or not this way.
            TypeError: the object is of a kind that it cannot be loaded into.
        """
        self._assignment = await run_to_end(
            self._builder, _make, self._target, manifest, self._options, self._uri
        )

    async def assign(self, manifest: Manifest, arrays: Mapping[str, Array]) -> None:
        """Give the object its new values; see `Assignment.assign`.

        If it is cancelled before the construction thread has begun, nothing changes; after that, it
        ends when the thread has ended, with all values new or none.

        Raises:
            MismatchError: file and object do not fit; names everything that does not.
            CannotBuildFast: only `load_stock` can do it.
        """
        await run_to_end(self._builder, self._chosen.assign, manifest.documents, arrays)

    async def load_stock(self, path: str) -> None:
        """Leave it to TensorFlow; see `Stock.load_stock`."""
        if not isinstance(self._chosen, Stock):
            raise TypeError(f"{type(self._chosen).__name__} leaves nothing to TensorFlow")
        await run_to_end(self._builder, self._chosen.load_stock, path)

    @property
    def _chosen(self) -> Assignment:
        if self._assignment is None:
            raise RuntimeError("nothing was chosen to assign by")
        return self._assignment


# How a file of each format goes into an object; see `_make_keras` and `_make_checkpoint`.
_STATE = frozenset({"keras", "keras-folder", "keras-weights", "keras-sharded"})
_NAMED = frozenset({"safetensors", "safetensors-index", "npz"})
_LEGACY = "keras-h5"
_CHECKPOINTS = frozenset({"checkpoint", "saved-model"})


def _make(target: Any, manifest: Manifest, options: IntoOptions, uri: str) -> Assignment:
    """Return the `Assignment` for a file of this format and this object.

    Raises:
        FormatError: there is none, or not with these options.
        TypeError: the object is of a kind that the file cannot be loaded into.
    """
    form = manifest.format
    _check_options(form, options, uri)
    with wanting_tensorflow(uri):
        if form in _CHECKPOINTS:
            return _make_checkpoint(target, options, uri)
        if form in _STATE | _NAMED | {_LEGACY}:
            return _make_keras(target, form, options, uri)
    raise FormatError(
        f"is of format {form}, which cannot be loaded into an object. Into a Keras model or layer "
        "load a .keras, .weights.h5, .weights.json or legacy .h5 file, or safetensors or npz whose "
        "names are the paths of the variables; into any trackable object, a checkpoint.",
        uri=uri,
    )


def _check_options(form: str, options: IntoOptions, uri: str) -> None:
    checkpoint = form in _CHECKPOINTS
    for name, given, fits, what in (
        ("by_name", options.by_name, form == _LEGACY, "legacy HDF5 files"),
        ("skip_mismatch", options.skip_mismatch, not checkpoint, "files of Keras"),
        ("partial", options.partial, checkpoint, "checkpoints"),
    ):
        if given and not fits:
            raise not_applicable("load_into", name, what, form, uri=uri)


def _make_checkpoint(target: Any, options: IntoOptions, uri: str) -> Assignment:
    # Imports TensorFlow, if the program has not.
    from asyncload.materialize.trackables import CheckpointAssignment

    return CheckpointAssignment(target, uri=uri, scopes=options.scopes, partial=options.partial)


def _make_keras(target: Any, form: str, options: IntoOptions, uri: str) -> Assignment:
    from asyncload.materialize.keras_into import (
        LegacyAssignment,
        NamedAssignment,
        StateAssignment,
    )

    common: dict[str, Any] = {
        "uri": uri,
        "skip_mismatch": options.skip_mismatch,
        "scopes": options.scopes,
    }
    if form == _LEGACY:
        return LegacyAssignment(target, by_name=options.by_name, **common)
    return (StateAssignment if form in _STATE else NamedAssignment)(target, **common)
