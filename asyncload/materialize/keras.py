"""Build a ``keras.Model`` from its config while its weights arrive, then bind them.

`ModelBuild` is used from one thread at a time: Keras' TensorFlow backend is not thread-safe,
so builds of all Loaders take turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from asyncload.errors import MismatchError, TooLarge

from . import CannotBuildFast, _private
from ._asset_files import write_asset
from ._config import parse_config
from ._keras_blueprint import CONFIG
from ._keras_build import KerasBuild
from ._keras_versions import METADATA, explained, old_version
from ._stock_files import write_model
from ._trust import Examination, names_in
from ._turn import summary, turn
from .caller import capture_scopes

__all__ = ["ModelBuild", "capture_scopes"]

Array = npt.NDArray[Any]

_TRAINING = "compile_config"


class ModelBuild(KerasBuild):
    """One ``.keras`` model on its way; see `KerasBuild`."""

    _config: Mapping[str, Any]
    _old: str | None = None

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Parse the config, and refuse what it must not name.

        Args:
            documents: the archive's; ``config.json`` is one of them.

        Raises:
            Corrupt: the config is no JSON object.
            Unsafe: it could run code, and ``safe_mode`` is on.
            FormatError: it uses classes that nobody registered.
        """
        self._old = old_version(documents.get(METADATA))
        self._config = parse_config(documents[CONFIG], CONFIG, self._uri, self._limits)
        with self._scopes(), explained(self._old):
            if self._safe_mode:
                self._examine()
            else:
                self._note(names_in(self._config, uri=self._uri))
        self._take_recipe(documents)

    def _examine(self) -> None:
        examination = Examination(self._own, self._uri)
        examination.look_at({**self._config, _TRAINING: None})
        if self._compile:
            examination.look_at_training(self._config.get(_TRAINING))
        examination.conclude()

    def describe(self, documents: Mapping[str, bytes]) -> bytes | None:
        """See `KerasBuild.describe`."""
        return documents.get(CONFIG)

    def _deserialize(self) -> Any:
        return _private.deserialize(self._config, self._custom_objects, self._safe_mode)

    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the model its weights and the rest of its state, and return it.

        Args:
            arrays: dataset path -> array, 64-byte-aligned; the model's variables share their
                memory until they are first updated.
            assets: path below ``assets/`` -> bytes.

        Raises:
            MismatchError: weights and model do not fit; names every tensor that does not.
            CannotBuildFast: Keras has to load this model itself.
        """
        with tempfile.TemporaryDirectory(prefix="asyncload-assets-") as folder:
            where = self._write_assets(assets, Path(folder)) if assets else None
            with turn(self._scopes), explained(self._old):
                taken = self._bind(arrays, where)
                self._remember(arrays, taken, assets)
        return self._model

    def _write_assets(self, assets: Mapping[str, bytes], folder: Path) -> str:
        for name, content in assets.items():
            write_asset(folder, name, content, uri=self._uri)
        return str(folder)

    def write(self, folder: str, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> str:
        """See `KerasBuild.write`."""
        return write_model(folder, self._documents, arrays, assets, uri=self._uri)

    def load_stock(self, path: str) -> Any:
        """See `KerasBuild.load_stock`."""
        with explained(self._old):
            return super().load_stock(path)

    def _bind(self, arrays: Mapping[str, Array], assets: str | None) -> set[int]:
        store = _private.StateStore(arrays)
        loader = _private.StateLoader(store, assets)
        try:
            with self._skeleton.active():
                loader.load(self._model)
                if self._compile and self._config.get(_TRAINING) and not loader.errors:
                    self._compile_and_load(loader)
            if not loader.errors:
                self._finish(arrays)
        except TooLarge:
            raise
        except Exception as error:
            self._check_cost()
            raise CannotBuildFast(f"binding its weights raised {summary(error)}") from error
        if loader.errors:
            self._explain(loader)
        return store.taken

    def _compile_and_load(self, loader: _private.StateLoader) -> None:
        _private.compile_as_saved(self._model, self._config, self._custom_objects, self._safe_mode)
        loader.load(self._model)

    def _explain(self, loader: _private.StateLoader) -> None:
        problems = loader.misfits()
        if problems is None:
            owner, error = next(iter(loader.errors.values()))
            raise CannotBuildFast(f"loading {owner!r} raised {summary(error)}") from error
        listing = "\n  ".join(problems)
        raise MismatchError(
            f"{len(problems)} variables of the model do not fit the weights in the file:\n  "
            f"{listing}\nThe file was saved from another architecture, or a custom layer builds "
            "other variables than it did then.",
            uri=self._uri,
        )
