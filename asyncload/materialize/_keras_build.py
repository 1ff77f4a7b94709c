"""What builds of Keras models have in common, whatever file they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras
import numpy.typing as npt

from asyncload.errors import AsyncloadError, FormatError, TooLarge
from asyncload.interfaces import Limits
from asyncload.manifest import Manifest

from . import CannotBuildFast, _private
from ._blueprint import remember
from ._keras_blueprint import KerasBlueprint, Recipe
from ._keras_versions import notice_legacy_keras
from ._turn import summary, turn
from .caller import Scopes

__all__ = ["KerasBuild"]

Array = npt.NDArray[Any]

_STATE_SHARE = 4  # slots of an optimizer that has not run yet, averages, accumulated gradients


class KerasBuild(ABC):
    """One Keras model on its way: `read`, `construct`, `bind`, on the construction thread.

    Args:
        uri: for messages.
        custom_objects: name -> class or function that the config may refer to.
        compile: compile the model as it was when it was saved, optimizer state included.
        safe_mode: refuse configs that could run code.
        scopes: those of whoever asked for the load.
        limits: how much the config may ask for; ``None`` for anything.
    """

    def __init__(
        self,
        *,
        uri: str,
        custom_objects: Mapping[str, Any] | None,
        compile: bool,
        safe_mode: bool,
        scopes: Scopes,
        limits: Limits | None = None,
    ) -> None:
        self._uri = uri
        self._limits = limits
        self._custom_objects = dict(custom_objects or {})
        self._compile = compile
        self._scopes = scopes
        with scopes():
            self._safe_mode = self._in_safe_mode(safe_mode)
        self._skeleton = (
            _private.Skeleton()
            if limits is None
            else _private.Skeleton(limits.seconds, limits.state)
        )
        self._named: dict[str, Any] = {}
        self._recipe: Recipe | None = None
        self._model: Any = None
        self._documents: Mapping[str, bytes] = {}

    def _in_safe_mode(self, wanted: bool) -> bool:
        """Return whether code is refused; what the caller's thread has set comes first."""
        return _private.safe_mode_here(wanted)

    def wanted(self, manifest: Manifest) -> tuple[None, None]:
        """Say that the model needs all of its file."""
        del manifest
        return None, None

    def construct(self) -> None:
        """Make the model's objects, without values.

        Raises:
            CannotBuildFast: Keras has to load this model itself.
        """
        notice_legacy_keras()
        if not _private.fast_path():
            raise CannotBuildFast("the fast path failed its self-test")
        if self._scopes.reason is not None:
            raise CannotBuildFast(self._scopes.reason)
        with turn(self._scopes):
            try:
                with self._skeleton.active():
                    self._model = self._deserialize()
            except Exception as error:
                self._check_cost()
                raise CannotBuildFast(f"building it raised {summary(error)}") from error
            self._check_cost()

    def stop(self) -> None:
        """See `Stoppable`."""
        self._skeleton.stop()

    def _check_cost(self) -> None:
        """Raise `TooLarge` if the model's objects took too long to make, or too much memory."""
        excess = self._skeleton.excess
        if self._limits is not None and excess:
            raise TooLarge(
                f"making the model of its config takes {excess:,} bytes of which the file has "
                f"nothing; at most {self._limits.state:,} are accepted. "
                f"{self._limits.remedy(state=2 * excess)}",
                uri=self._uri,
            )
        if self._limits is not None and self._skeleton.is_late:
            raise TooLarge(
                f"making the model of its config takes more than {self._limits.seconds:g} seconds "
                f"of CPU time. {self._limits.remedy(seconds=10 * self._limits.seconds)}",
                uri=self._uri,
            )

    def _finish(self, arrays: Mapping[str, Array]) -> None:
        """Give their first values to variables of which the file has none.

        Args:
            arrays: of the file.

        Raises:
            TooLarge: they are larger than what it has, and than the limits say.
        """
        _private.detach_derived(self._model)
        if self._limits is not None:
            declared = self._skeleton.declared
            stored = sum(array.nbytes for array in arrays.values())
            if declared > self._limits.state + _STATE_SHARE * stored:
                raise TooLarge(
                    f"its config declares {declared:,} bytes of variables of which the file, with "
                    f"{stored:,} bytes, has no values; at most {self._limits.state:,} are accepted "
                    f"besides {_STATE_SHARE} times what it has. "
                    f"{self._limits.remedy(state=2 * declared)}",
                    uri=self._uri,
                )
        self._skeleton.finish()

    @abstractmethod
    def _deserialize(self) -> Any:
        """Make the model of its config, in the skeleton."""

    @abstractmethod
    def describe(self, documents: Mapping[str, bytes]) -> bytes | None:
        """Return all that documents say of how the model is made, if they are of this kind."""

    def recipe(self, text: bytes, names: Collection[str]) -> Recipe:
        """Return what a model would be made of now.

        Args:
            text: that describes it; it need not have been read.
            names: that it has of objects that may be the caller's own.
        """
        with self._scopes():
            self._note(names)
            return Recipe(
                text=text,
                compiled=self._compile,
                safe_mode=self._safe_mode,
                custom_objects=self._custom_objects,
                named={name: self._named[name] for name in names},
                settings=(*_private.settings(), self._scopes.place),
            )

    def _take_recipe(self, documents: Mapping[str, bytes]) -> None:
        self._documents = documents
        self._recipe = self.recipe(self.describe(documents) or b"", list(self._named))

    def _remember(
        self, arrays: Mapping[str, Array], taken: set[int], assets: Mapping[str, bytes]
    ) -> None:
        """Remember the model that was just bound.

        Args:
            arrays: of the file.
            taken: ids of those that something was made of.
            assets: of the file.
        """
        recipe, origins = self._recipe, self._skeleton.origins
        if recipe is not None:
            remember(
                self._model,
                lambda: KerasBlueprint(
                    recipe,
                    _private.KerasState(self._model, origins, arrays, taken),
                    assets,
                    self._uri,
                ),
            )
        origins.clear()
        _private.free_when_dropped(self._model, self._skeleton.made)
        self._skeleton.made.clear()

    def _note(self, names: Iterable[str]) -> None:
        for name in names:
            self._own(name)

    def _own(self, name: str) -> Any:
        """Return the caller's object of a name; of one that begins with ``>``, in any package."""
        # Noted, as it also decides what a model is made of.
        if name not in self._named:
            self._named[name] = self._find_own(name)
        return self._named[name]

    def _find_own(self, name: str) -> Any:
        if name.startswith(">"):
            return _private.own_of_any_package(name, self._custom_objects)
        own = self._custom_objects.get(name)
        return _private.registered(name) if own is None else own

    @abstractmethod
    def write(self, folder: str, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> str:
        """Write what `load_stock` reads, and return its path: nothing but what was checked.

        Args:
            folder: which is empty.
            arrays: as `bind` takes them, and
            assets: as `bind` takes them.
        """

    @property
    def writer(self) -> Any:
        """See `asyncload.loader._construct.Build`."""
        return self.write

    def load_stock(self, path: str) -> Any:
        """Load the model as Keras does: for what cannot be built the fast way.

        Args:
            path: of what `write` wrote.

        Raises:
            FormatError: Keras could not load it either.
        """
        with turn(self._scopes):
            self._scopes.rewind()
            try:
                return keras.models.load_model(
                    path,
                    custom_objects=self._custom_objects,
                    compile=self._compile,
                    safe_mode=self._safe_mode,
                )
            except AsyncloadError:
                raise
            except Exception as error:
                raise FormatError(
                    f"Keras {keras.__version__} cannot load this model: {summary(error)}. If it "
                    "uses classes of your own, check their from_config and build; if it is about "
                    "losses or metrics, pass compile=False; if it was saved by another version of "
                    "Keras, load it with that one.",
                    uri=self._uri,
                ) from error
