"""Models that nobody uses any more take the values of their next version.

Nothing is built, and what TensorFlow traced and instantiated stays: the variables are the same,
with other values. That is exact where the two versions differ in nothing else; where they do,
the next version is built as always.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from asyncload.manifest import Manifest

from . import _private
from ._blueprint import Match, blueprint_of
from ._turn import turn
from .caller import Scopes

__all__ = ["ReuseBuild", "empty"]

Array = npt.NDArray[Any]
Wanted = tuple[Collection[str] | None, Collection[str] | None]


class _Build(Protocol):
    """See `asyncload.loader._construct.Build`."""

    @property
    def writer(self) -> Any: ...
    def read(self, documents: Mapping[str, bytes]) -> None: ...
    def wanted(self, manifest: Manifest) -> Wanted: ...
    def construct(self) -> None: ...
    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any: ...
    def load_stock(self, path: str) -> Any: ...


class ReuseBuild:
    """A build that makes its model of another one, if the two differ in their values only.

    Args:
        build: what is done otherwise.
        offered: the model that nobody uses any more.
        scopes: those of whoever asked.
        notice: called with the reason why it was not taken, in any thread.
        uri: what is loaded.
    """

    def __init__(
        self,
        build: _Build,
        offered: Any,
        *,
        scopes: Scopes,
        notice: Callable[[str], None],
        uri: str,
    ) -> None:
        self._build = build
        self._offered: Any = offered
        self._scopes = scopes
        self._notice = notice
        self._uri = uri
        self._documents: Mapping[str, bytes] = {}
        self._manifest: Manifest | None = None
        self._match: Match | None = None
        self._released = False

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Compare what the documents say with the model offered; see `Build.read`."""
        self._documents = documents
        if (difference := self._difference()) is not None:
            self._refuse(difference)
            self._build.read(documents)

    def _difference(self) -> str | None:
        blueprint = blueprint_of(self._offered)
        if blueprint is None:
            return "it is none that asyncload has built and that is still known"
        if not _private.reuse_path():
            return "the way to do it failed its self-test"
        if self._scopes.reason is not None:
            return self._scopes.reason
        if self._released or not _claim(self._offered, self):
            return "another load has been offered it"
        match = blueprint.problem or blueprint.compare(self._build, self._documents)
        if isinstance(match, str):
            return match
        self._match = match
        return None

    def _refuse(self, difference: str) -> None:
        self._notice(f"the model offered for reuse is left as it is: {difference}")
        self._let_go()

    def _let_go(self) -> None:
        self.release()
        self._match = self._offered = None

    def release(self) -> None:
        """Let another load be offered the model; called when this one ended, in any thread."""
        self._released = True
        if _claims.get(id(self._offered)) is self:
            del _claims[id(self._offered)]

    def wanted(self, manifest: Manifest) -> Wanted:
        """See `Build.wanted`."""
        self._manifest = manifest
        return (self._match or self._build).wanted(manifest)

    def construct(self) -> None:
        """Make the model's objects, if there are none to be used; see `Build.construct`."""
        difference = None if self._match is None else self._match.construct()
        if difference is not None:
            self._refuse(difference)
            self._build.read(self._documents)
        if self._match is None:
            self._build.construct()

    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the model its values, and return it; see `Build.bind`.

        If that fails, the model offered has all of its old values.
        """
        if self._match is not None:
            with turn(self._scopes):
                difference = self._match.misfit(arrays, assets)
                if difference is None:
                    self._match.rebind(arrays, uri=self._uri)
                    model = self._offered
                    self._let_go()
                    return model
            self._refuse(difference)
            self._build_after_all()
        return self._build.bind(arrays, assets)

    def _build_after_all(self) -> None:
        """Make up for what was skipped, on the construction thread."""
        self._build.read(self._documents)
        if self._manifest is not None:
            self._build.wanted(self._manifest)  # the same names: the documents are the same
        self._build.construct()

    @property
    def writer(self) -> Any:
        """See `Build.writer`."""
        return self._build.writer

    def load_stock(self, path: str) -> Any:
        """See `Build.load_stock`."""
        return self._build.load_stock(path)


def empty(model: Any) -> bool:
    """Drop the values of a model that nobody uses any more, and keep all else of it.

    Its memory is returned; its objects and what was traced with them stay, for
    ``load(..., reuse=model)``. Until then, what calls it gets an error of TensorFlow.

    Called in a thread: it takes its turn with what is being built, and tens of microseconds for
    each variable.

    Args:
        model: a ``keras.Model`` or `Signatures` that a load returned.

    Returns:
        Whether it was emptied; otherwise it is none that can be reused, and as it was.
    """
    blueprint = blueprint_of(model)
    if blueprint is None or blueprint.problem is not None:
        return False
    with turn():
        if not _private.reuse_path():
            return False
        blueprint.empty()
    return True


# Which build has a model, by the model's id; a build that ended has none.
_claims: weakref.WeakValueDictionary[int, ReuseBuild] = weakref.WeakValueDictionary()


def _claim(model: Any, build: ReuseBuild) -> bool:
    # The build refers to the model, so an id here is that of a model that lives.
    return _claims.setdefault(id(model), build) is build
