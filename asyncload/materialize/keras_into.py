"""Put the values of a file into a Keras model that lives: all of them, or none.

What a file holds is first assigned within a `Recording`, by the same code of Keras that
``load_weights`` runs, and compared with the model; only if everything fits do its variables change.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from asyncload.errors import MismatchError, NotApplicable
from asyncload.texts import printable_lines

from . import _private
from ._positions import match_by_name, match_by_position, parse_order
from ._turn import summary, turn
from .caller import Scopes

__all__ = ["LegacyAssignment", "NamedAssignment", "StateAssignment"]

Array = npt.NDArray[Any]

_ORDER = "weight_names"
_UNCHANGED = "Nothing was changed. The file was saved from another architecture"
_ADVICE = "; skip_mismatch=True loads what fits"


class _Assignment(ABC):
    """New values for a model, or a layer; `assign` is called on the construction thread.

    Args:
        target: a ``keras.Model`` or ``keras.Layer`` that is built.
        uri: for messages.
        skip_mismatch: leave what does not fit as it is, with a warning, as Keras does.
        scopes: those of whoever asked.

    Raises:
        NotApplicable: the target is of another kind.
        MismatchError: the target is not built, so that it has no variables yet.
    """

    kind: Any = keras.Layer

    def __init__(self, target: Any, *, uri: str, skip_mismatch: bool, scopes: Scopes) -> None:
        if not isinstance(target, self.kind):
            raise NotApplicable(
                f"can be loaded into a keras.{self.kind.__name__}, and the target is of class "
                f"{type(target).__module__}.{type(target).__qualname__}. Give load_into() the "
                "model itself, built",
                uri=uri,
            )
        if not target.built:
            raise MismatchError(
                f"the {type(target).__name__} {target.name!r} is not built, so it has no variables "
                "to load into; call it on an input, or call its build(), first",
                uri=uri,
            )
        self._target = target
        self._uri = uri
        self._skip_mismatch = skip_mismatch
        self._scopes = scopes

    def assign(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        """Give the target's variables new values, or raise and leave everything as it was.

        Args:
            documents: of the file.
            arrays: name -> array, 64-byte-aligned; variables share their memory until they
                are first updated.

        Raises:
            MismatchError: file and target do not fit; names everything that does not.
        """
        with turn(self._scopes):
            snapshot = _private.Snapshot(self._target)
            try:
                with _private.recording(quick=_private.fast_path()) as recorded:
                    self._load(documents, arrays)
                recorded.commit()
            except BaseException:
                snapshot.restore()
                raise

    @abstractmethod
    def _load(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        """Assign, within a `Recording`."""

    def _refuse(self, lines: list[str], *, some_fits: bool) -> MismatchError:
        """Return the error of a file and a target that do not fit.

        Args:
            lines: what does not.
            some_fits: whether ``skip_mismatch`` would load anything.
        """
        listing = "\n  ".join(lines)
        return MismatchError(
            f"the file does not fit the {type(self._target).__name__} {self._target.name!r}:\n  "
            f"{listing}\n{_UNCHANGED}{_ADVICE if some_fits else ''}.",
            uri=self._uri,
        )


class StateAssignment(_Assignment):
    """From files in which each object has its variables at its own path, as Keras 3 writes them."""

    def assign(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        """See `_Assignment.assign`."""
        # Otherwise Keras' own walk makes variables on its way, which a Recording forbids.
        if _private.fast_path():
            with suppress(_NeedsItsOwnWay):
                return super().assign(documents, arrays)
        with turn(self._scopes):
            return self._assign_in_place(arrays)

    def _load(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        del documents
        loader = self._run(arrays)
        if any(_private.loads_its_own_way(owner) for owner, _ in loader.errors.values()):
            raise _NeedsItsOwnWay
        self._judge(loader)

    def _assign_in_place(self, arrays: Mapping[str, Array]) -> None:
        """Let classes of the caller's own do what a `Recording` cannot hold back, and undo it."""
        snapshot = _private.Snapshot(self._target, values=True)
        try:
            self._judge(self._run(arrays))
        except BaseException:
            snapshot.restore()
            raise

    def _run(self, arrays: Mapping[str, Array]) -> _private.StateLoader:
        # As in load_weights, assets stay as they are: vocabularies belong to the model.
        store = _private.StateStore(arrays)
        loader = _private.StateLoader(store, None, skip_mismatch=self._skip_mismatch)
        try:
            loader.load(self._target)
        except Warning:  # where warnings are errors: Keras warns in passing of what does not fit
            if not loader.errors or self._skip_mismatch:
                raise
        return loader

    def _judge(self, loader: _private.StateLoader) -> None:
        if not loader.errors:
            return
        lines = loader.misfits() or [
            f"{owner!r}: {summary(error)}" for owner, error in loader.errors.values()
        ]
        if not self._skip_mismatch:
            # Of custom state nobody can tell what fits.
            some_fits = not loader.misfits() or len(lines) < len(self._target.weights)
            raise self._refuse(lines, some_fits=some_fits)
        _warn(self._uri, lines)


class _NeedsItsOwnWay(Exception):
    """The state cannot be loaded within a `Recording`."""


class LegacyAssignment(_Assignment):
    """From legacy HDF5 files, by position or by the names of layers.

    Args:
        by_name: match layers by name; those that have no namesake in the file stay as they are.
    """

    kind = keras.Model

    def __init__(self, target: Any, *, by_name: bool, **options: Any) -> None:
        super().__init__(target, **options)
        self._match: Callable[..., Any] = match_by_name if by_name else match_by_position

    def _load(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        order = parse_order(documents[_ORDER])
        match = functools.partial(self._match, self._target, order, arrays)
        plan = match(skip_mismatch=self._skip_mismatch)
        if plan.misfits:
            skipping = match(skip_mismatch=True)
            some_fits = not skipping.misfits and any(pairs for _, pairs in skipping.steps)
            raise self._refuse(plan.misfits, some_fits=some_fits)
        plan.apply()
        if plan.skipped:
            _warn(self._uri, plan.skipped)


class NamedAssignment(_Assignment):
    """From files whose tensors are named by the paths of Keras' variables (``dense/kernel``).

    All weights have to be there; seeds, and the state of the optimizer, may be.
    """

    def _load(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        del documents
        target = self._target
        optimizer = getattr(target, "optimizer", None)
        variables = [*target.variables, *(optimizer.variables if optimizer is not None else ())]
        required = {id(weight) for weight in target.weights}
        counts = Counter(variable.path for variable in variables)
        unknown = [path for path in arrays if path not in counts]
        lines = [f"{path}: the model has no such variable" for path in unknown]
        for variable in variables:
            if counts[variable.path] == 1:
                array, needed = arrays.get(variable.path), id(variable) in required
                lines += self._assign_one(variable, array, needed)
            else:
                lines.append(f"{variable.path} is the path of more than one variable")
        if lines and not self._skip_mismatch:
            some_fits = len(lines) - len(unknown) < len(variables)
            raise self._refuse(lines, some_fits=some_fits)
        if lines:
            _warn(self._uri, lines)

    def _assign_one(self, variable: Any, array: Array | None, required: bool) -> list[str]:
        have = f"{variable.path} has {tuple(variable.shape)} {variable.dtype}"
        if array is None:
            return [f"{have}, the file has no such tensor"] if required else []
        if tuple(variable.shape) != array.shape or array.dtype.type is np.void:
            return [f"{have}, the file has {array.shape} {array.dtype}"]
        variable.assign(array)
        return []


def _warn(uri: str, lines: list[str]) -> None:
    listing = "\n  ".join(lines)
    warnings.warn(printable_lines(f"{uri}: left as it was:\n  {listing}"), stacklevel=2)
