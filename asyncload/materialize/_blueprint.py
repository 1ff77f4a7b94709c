"""What is remembered of a model that was loaded, so that its next version can take its place."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from asyncload.manifest import Manifest

__all__ = ["Blueprint", "blueprint_of", "remember"]

Array = npt.NDArray[Any]
Wanted = tuple[Collection[str] | None, Collection[str] | None]


class Blueprint(Protocol):
    """What decides how a model is built, and where its values are; refers to it weakly.

    All but `wanted` are called on the construction thread. What says how something differs returns
    a clause for a message, or ``None`` if nothing does.

    Attributes:
        problem: why the model can never take other values, if it cannot.
    """

    problem: str | None

    def differs(self, build: Any, documents: Mapping[str, bytes]) -> str | None:
        """Say how what a build would make of the documents differs from the model.

        Args:
            build: whose documents were not read yet.
            documents: as `Build.read` takes them.
        """
        ...

    def wanted(self, manifest: Manifest) -> Wanted:
        """Return the names of the tensors and of the assets that are needed; ``None`` for all."""
        ...

    def misfit(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> str | None:
        """Say how values do not fit the model as those did that it was loaded with."""
        ...

    def rebind(self, arrays: Mapping[str, Array], *, uri: str) -> None:
        """Give the model new values, all of them or none, as if it had just been loaded.

        Args:
            arrays: that fit; variables share the memory of aligned ones until they are first
                updated.
            uri: where they are from.
        """
        ...

    def empty(self) -> None:
        """Drop the model's values, so that nothing of it keeps their memory."""
        ...


_known: dict[int, tuple[weakref.ref[Any], Blueprint]] = {}


def remember(model: Any, blueprint: Blueprint) -> None:
    """Remember a blueprint for as long as its model lives."""
    # By identity: a class of the user's may compare its models by something else, or hash none.
    key = id(model)

    def forget(_: object) -> None:
        _known.pop(key, None)

    _known[key] = weakref.ref(model, forget), blueprint


def blueprint_of(model: Any) -> Blueprint | None:
    """Return what is remembered of a model."""
    reference, blueprint = _known.get(id(model), (None, None))
    return blueprint if reference is not None and reference() is model else None
