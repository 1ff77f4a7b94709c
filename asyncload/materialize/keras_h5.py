"""Build a ``keras.Model`` from a legacy HDF5 file while its weights arrive, then bind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from asyncload.errors import FormatError, MismatchError
from asyncload.manifest import Manifest

from . import CannotBuildFast, _private
from ._config import parse_config, parse_object
from ._load_model import load_stock
from ._positions import Order, match_by_position, parse_order
from ._trust import check_config
from ._turn import Scopes, summary, turn

__all__ = ["LegacyBuild"]

Array = npt.NDArray[Any]

_CONFIG, _TRAINING, _ORDER = "model_config", "training_config", "weight_names"


class LegacyBuild:
    """One legacy model on its way: `read`, `construct`, `bind`, on the construction thread.

    Args:
        uri: for messages.
        custom_objects: name -> class or function that the config may refer to.
        compile: compile the model as it was when it was saved.
        safe_mode: refuse configs that could run code.
        scopes: enters the Keras scopes of whoever asked for the load.
    """

    suffix = ".h5"

    def __init__(
        self,
        *,
        uri: str,
        custom_objects: Mapping[str, Any] | None,
        compile: bool,
        safe_mode: bool,
        scopes: Scopes,
    ) -> None:
        self._uri = uri
        self._custom_objects = dict(custom_objects or {})
        self._compile = compile
        self._safe_mode = safe_mode
        self._scopes = scopes
        self._skeleton = _private.Skeleton()
        self._config = b""
        self._training: bytes | None = None
        self._order = Order([], None, None)
        self._model: Any = None

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Parse the configs, and refuse what they must not name.

        Args:
            documents: the file's; ``model_config`` and ``weight_names`` are among them.

        Raises:
            Corrupt: a config is no JSON object.
            Unsafe: it could run code, and ``safe_mode`` is on.
            FormatError: it uses classes that nobody registered.
        """
        self._check(parse_config(documents[_CONFIG], _CONFIG, self._uri))
        if self._compile and _TRAINING in documents:
            try:
                self._check(parse_object(documents[_TRAINING], _TRAINING, self._uri))
            except FormatError as error:
                error.message += " Or pass compile=False: this is about the model's training."
                raise
            self._training = documents[_TRAINING]
        self._order = parse_order(documents[_ORDER])
        self._config = documents[_CONFIG]

    def wanted(self, manifest: Manifest) -> tuple[None, None]:
        """Say that the model needs all of its file."""
        del manifest
        return None, None

    def construct(self) -> None:
        """Make the model's objects, without values.

        Raises:
            CannotBuildFast: Keras has to load this model itself.
        """
        if not _private.fast_path():
            raise CannotBuildFast("the fast path failed its self-test")
        with turn(self._scopes):
            try:
                config = _private.parse_legacy(self._config)
                with self._skeleton.active():
                    self._model = _private.build_legacy(
                        config, self._custom_objects, self._safe_mode
                    )
            except Exception as error:
                raise CannotBuildFast(f"building it raised {summary(error)}") from error

    def _check(self, config: Mapping[str, Any]) -> None:
        if self._safe_mode:
            with self._scopes():
                check_config(config, self._knows, uri=self._uri, is_part=_private.is_part_of_keras)

    def _knows(self, name: str) -> bool:
        return name in self._custom_objects or _private.is_registered(name)

    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the model its weights, compile it as it was, and return it.

        Args:
            arrays: dataset path -> array, 64-byte-aligned; the model's variables share their
                memory until they are first updated.
            assets: none.

        Raises:
            MismatchError: weights and model do not fit; names every tensor that does not.
            CannotBuildFast: Keras has to load this model itself.
        """
        del assets
        with turn(self._scopes):
            try:
                plan = match_by_position(self._model, self._order, arrays)
                if not plan.misfits:
                    self._apply(plan.apply, arrays)
            except Exception as error:
                raise CannotBuildFast(f"binding its weights raised {summary(error)}") from error
        if plan.misfits:
            raise MismatchError(
                "the model does not fit the weights in the file:\n  "
                + "\n  ".join(plan.misfits)
                + "\nA custom layer builds other variables than it did when the file was saved, or "
                "the file was changed since.",
                uri=self._uri,
            )
        return self._model

    def _apply(self, assign: Callable[[], None], arrays: Mapping[str, Array]) -> None:
        with self._skeleton.active():
            assign()
            if self._training is not None:
                names = self._order.optimizer
                _private.compile_legacy(
                    self._model,
                    _private.parse_legacy(self._training),
                    self._custom_objects,
                    None if names is None else [arrays[name] for name in names],
                )
        self._skeleton.finish()

    def load_stock(self, path: str) -> Any:
        """Load the model as Keras does: for what cannot be built the fast way.

        Args:
            path: of the ``.h5`` file.

        Raises:
            FormatError: Keras could not load it either.
        """
        with turn(self._scopes):
            return load_stock(
                path,
                uri=self._uri,
                custom_objects=self._custom_objects,
                compile=self._compile,
                safe_mode=self._safe_mode,
            )
