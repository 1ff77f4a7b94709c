"""What is remembered of a model that was loaded, so that its next version can take its place."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from asyncload.manifest import Manifest

__all__ = ["Blueprint", "Match", "blueprint_of", "remember"]

Array = npt.NDArray[Any]
Wanted = tuple[Collection[str] | None, Collection[str] | None]


class Match(Protocol):
    """A model, and documents that say the same of it; its methods are called in this order.

    All but `wanted` are called on the construction thread. What says how something differs returns
    a clause for a message, or ``None`` if nothing does.
    """

    def wanted(self, manifest: Manifest) -> Wanted:
        """Return the names of the tensors and of the assets that are needed; ``None`` for all.

        Called in any thread, even while `construct` runs.
        """
        ...

    def construct(self) -> str | None:
        """Compare what takes longer, while tensors are read; say how it differs."""
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


class Blueprint(Protocol):
    """What decides how a model is built, and where its values are; refers to it weakly.

    Attributes:
        problem: why the model can never take other values, if it cannot.
    """

    problem: str | None

    def compare(self, build: Any, documents: Mapping[str, bytes]) -> Match | str:
        """Compare what a build would make of the documents with the model.

        Args:
            build: may read the documents, and does not construct yet.
            documents: as `Build.read` takes them.

        Returns:
            A match; or how they differ, as a clause for a message.

        Raises: as `Build.read` does.
        """
        ...

    def empty(self) -> None:
        """Drop the model's values, so that nothing of it keeps their memory."""
        ...


_logger = logging.getLogger("asyncload")
_known: dict[int, tuple[weakref.ref[Any], Blueprint]] = {}


def remember(model: Any, take: Callable[[], Blueprint]) -> None:
    """Take the blueprint of a model that was just made, and remember it while the model lives."""
    try:
        blueprint = take()
    except Exception:  # a class of the user's that is like no other; the model is as it should be
        _logger.debug("no blueprint of %r", type(model), exc_info=True)
        return
    # By identity: a class of the user's may compare its models by something else, or hash none.
    key = id(model)

    def forget(_: object) -> None:
        _known.pop(key, None)

    _known[key] = weakref.ref(model, forget), blueprint


def blueprint_of(model: Any) -> Blueprint | None:
    """Return what is remembered of a model."""
    reference, blueprint = _known.get(id(model), (None, None))
    return blueprint if reference is not None and reference() is model else None
