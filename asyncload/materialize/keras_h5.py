"""Build a ``keras.Model`` from a legacy HDF5 file while its weights arrive, then bind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy.typing as npt

from asyncload.errors import MismatchError, TooLarge

from . import CannotBuildFast, _private
from ._config import parse_config, parse_object
from ._keras_build import KerasBuild
from ._positions import Order, match_by_position, parse_order
from ._stock_files import write_legacy
from ._trust import Examination, names_in
from ._turn import summary, turn

__all__ = ["LegacyBuild"]

Array = npt.NDArray[Any]

_CONFIG, _TRAINING, _ORDER = "model_config", "training_config", "weight_names"


class LegacyBuild(KerasBuild):
    """One legacy model on its way; see `KerasBuild`."""

    _config = b""
    _training: bytes | None = None
    _order = Order([], None, None)

    def _in_safe_mode(self, wanted: bool) -> bool:
        """Return what the load asks for, as Keras does for legacy models, whatever is set."""
        return wanted

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Parse the configs, and refuse what they must not name.

        Args:
            documents: the file's; ``model_config`` and ``weight_names`` are among them.

        Raises:
            Corrupt: a config is no JSON object.
            Unsafe: it could run code, and ``safe_mode`` is on.
            FormatError: it uses classes that nobody registered.
        """
        config = parse_config(documents[_CONFIG], _CONFIG, self._uri, self._limits)
        training = None
        if self._compile and _TRAINING in documents:
            self._training = documents[_TRAINING]
            training = parse_object(self._training, _TRAINING, self._uri, self._limits)
        with self._scopes():
            if self._safe_mode:
                self._examine(config, training)
            self._note(
                name for each in (config, training) for name in names_in(each, uri=self._uri)
            )
        self._order = parse_order(documents[_ORDER])
        self._config = documents[_CONFIG]
        self._take_recipe(documents)

    def _examine(self, config: Mapping[str, Any], training: Mapping[str, Any] | None) -> None:
        examination = Examination(self._own, self._uri, legacy=True)
        examination.look_at(config)
        examination.look_at_training(training)
        examination.conclude()

    def describe(self, documents: Mapping[str, bytes]) -> bytes | None:
        """See `KerasBuild.describe`."""
        if _CONFIG not in documents:
            return None
        training = documents.get(_TRAINING, b"") if self._compile else b""
        return b"\0".join([documents[_CONFIG], training, documents[_ORDER]])

    def write(self, folder: str, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> str:
        """See `KerasBuild.write`."""
        del assets
        documents = {name: text for name, text in self._documents.items() if name != _ORDER}
        return write_legacy(folder, documents, self._order, arrays)

    def _deserialize(self) -> Any:
        config = _private.parse_legacy(self._config)
        return _private.build_legacy(config, self._custom_objects, self._safe_mode)

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
                    self._remember(arrays, {id(arrays[n]) for n in self._names_of_weights()}, {})
            except TooLarge:
                raise
            except Exception as error:
                self._check_cost()
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

    def _names_of_weights(self) -> Iterator[str]:
        for _, paths in self._order.layers:
            yield from paths
        yield from self._order.top or ()

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
        self._finish(arrays)
