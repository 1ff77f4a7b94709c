"""The construction thread's side of `Loader.load_into`: new values for an object that lives.

How a kind of file goes into a kind of object is the business of an `Assignment` in materialize/; a
new one gets a line in `_make`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

import anyio
import numpy.typing as npt

from asyncload.errors import FormatError
from asyncload.manifest import Manifest

from ._options import IntoOptions

__all__ = ["Assignment", "Into"]

Array = npt.NDArray[Any]
Result = TypeVar("Result")


class Assignment(Protocol):
    """New values for an object; made and called on the construction thread.

    Making it raises if the object is of a kind that the file cannot be loaded into.
    """

    def assign(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        """Give the object its new values, all of them, or raise and leave it as it was.

        Raises:
            MismatchError: file and object do not fit; names everything that does not.
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
        self._assignment = await self._on_thread(
            _make, self._target, manifest, self._options, self._uri
        )

    async def assign(self, manifest: Manifest, arrays: Mapping[str, Array]) -> None:
        """Give the object its new values; see `Assignment.assign`.

        If it is cancelled before the construction thread has begun, nothing changes; after that, it
        ends when the thread has ended, with all values new or none.
        """
        if self._assignment is None:
            raise RuntimeError("nothing was chosen to assign by")
        await self._on_thread(self._assignment.assign, manifest.documents, arrays)

    async def _on_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        job = self._builder.submit(function, *args)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if not job.cancel():  # it has begun, and what it changes must not change later
                ended = asyncio.wrap_future(job)
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([ended])
                ended.exception()  # taken note of, so that it is not logged as lost
            raise


_STATE = frozenset({"keras", "keras-weights", "keras-sharded"})
_NAMED = frozenset({"safetensors", "safetensors-index", "npz"})
_LEGACY = "keras-h5"


def _make(target: Any, manifest: Manifest, options: IntoOptions, uri: str) -> Assignment:
    """Return the `Assignment` for a file of this format and this object.

    Raises:
        FormatError: there is none, or not with these options.
        TypeError: the object is of a kind that the file cannot be loaded into.
    """
    if options.by_name and manifest.format != _LEGACY:
        raise FormatError(
            f"is of format {manifest.format}; by_name=True is for legacy HDF5 files, whose weights "
            "are told by their position. Leave it out.",
            uri=uri,
        )
    if manifest.format in _STATE | _NAMED | {_LEGACY}:
        return _make_keras(target, manifest.format, options, uri)
    raise FormatError(
        f"is of format {manifest.format}, which cannot be loaded into an object. Into a Keras "
        "model or layer load a .keras, .weights.h5, .weights.json or legacy .h5 file, or "
        "safetensors or npz whose names are the paths of the variables.",
        uri=uri,
    )


def _make_keras(target: Any, form: str, options: IntoOptions, uri: str) -> Assignment:
    # Imports TensorFlow, if the program has not.
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
