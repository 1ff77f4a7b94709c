"""What functions of a SavedModel are bound to: variables, constants, asset paths and tables."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from asyncload.errors import Corrupt, MismatchError

from . import _private
from ._asset_files import write_asset
from ._serving_plan import CheckpointKeys, ServingPlan
from ._turn import with_rests

__all__ = ["Bound"]

Array = npt.NDArray[Any]


class Bound:
    """The objects of a plan as tensors: handles of variables and resources, constants, paths.

    Everything ends with this object: variables, tables, and the copies of assets.

    Args:
        plan: what is needed of a SavedModel.
        library: where its functions are registered.
        constants: node -> value.
        folder: the SavedModel's, where it is on this machine's disk: its assets are used in place.
        uri: for messages.

    Attributes:
        plan: the same.
        library: the same.
    """

    def __init__(
        self,
        plan: ServingPlan,
        library: _private.Library,
        constants: Mapping[int, Any],
        *,
        folder: str | None,
        uri: str,
    ) -> None:
        self._uri = uri
        self.plan = plan
        self.library = library
        self._folder = folder
        self._tensors: dict[int, Any] = {
            number: _private.variable_handle(variable.shape, variable.dtype, variable.name)
            for number, variable in with_rests(plan.variables.items())
        }
        self._tensors.update(constants)
        # Unlike variables, tables and other resources do not go with their handles.
        self._made: list[Any] = []
        weakref.finalize(self, _destroy, self._made).atexit = False

    def captures(self, function: str) -> list[Any]:
        """Return the tensors that a function takes after its inputs."""
        return [self._tensors[number] for number in self.plan.concrete[function].bound_inputs]

    def tensor(self, number: int) -> Any:
        """Return the tensor that a node of the object graph is."""
        return self._tensors[number]

    def exchange(self, arrays: Mapping[str, Array], keys: CheckpointKeys, *, uri: str) -> None:
        """Give the variables other values, all of them or none.

        Args:
            arrays: checkpoint key -> array; variables share the memory of aligned ones.
            keys: where each value is among them.
            uri: where they are from.

        Raises:
            MismatchError: a value does not fit its variable; names every one.
        """
        self._check(arrays, keys, uri)
        _private.exchange(
            (self._tensors[number], _private.as_tensor(keys.value(number, arrays)))
            for number in keys.variables
        )

    def empty(self) -> None:
        """Take their values from the variables; see `_private.drop`."""
        _private.drop(
            (self._tensors[number], len(variable.shape.dim), variable.dtype)
            for number, variable in self.plan.variables.items()
        )

    def restore(
        self, arrays: Mapping[str, Array], keys: CheckpointKeys, assets: Mapping[str, bytes]
    ) -> None:
        """Give everything its value, in the order in which ``tf.saved_model.load`` does.

        Args:
            arrays: checkpoint key -> array; variables share the memory of aligned ones.
            keys: where each value is among them.
            assets: path below the SavedModel's folder -> bytes; not used where it is on disk.

        Raises:
            MismatchError: a value does not fit its variable; names every one.
            Corrupt: an asset is missing.
            tf.errors.OpError: a resource cannot be made or initialised.
        """
        self._check(arrays, keys, self._uri)
        for number in with_rests(keys.variables):
            value = _private.as_tensor(keys.value(number, arrays))
            _private.assign(self._tensors[number], value)
        for number, path in self._asset_paths(assets):
            self._tensors[number] = tf.constant(path)
        for number in self._creation_order():
            resource = self.plan.resources[number]
            with tf.device(resource.device):
                (self._tensors[number],) = self._call(resource.create)
            self._made.append(self._tensors[number])
        for number, names in keys.tables.items():
            restore = self.plan.resources[number].restore
            if restore is not None:
                self._call(restore, [_private.as_tensor(arrays[name]) for name in names])
        for number in sorted(self.plan.resources):
            initialise = self.plan.resources[number].initialise
            if initialise is not None:
                self._call(initialise)
        if self.plan.startup is not None:
            self._call(self.plan.startup)

    def _call(self, function: str, inputs: list[Any] | None = None) -> list[Any]:
        return self.library.call(function, [*(inputs or ()), *self.captures(function)])

    def _creation_order(self) -> Iterator[int]:
        """Yield resources so that each comes after those that the function that makes it needs."""
        waiting = sorted(self.plan.resources)
        while waiting:
            ready = [number for number in waiting if self._can_make(number)]
            if not ready:
                raise Corrupt("has resources that need each other to be made", uri=self._uri)
            for number in ready:
                yield number
                waiting.remove(number)

    def _can_make(self, number: int) -> bool:
        create = self.plan.resources[number].create
        return all(each in self._tensors for each in self.plan.concrete[create].bound_inputs)

    def _check(self, arrays: Mapping[str, Array], keys: CheckpointKeys, uri: str) -> None:
        problems = []
        for number, key in keys.variables.items():
            variable, array = self.plan.variables[number], keys.value(number, arrays)
            if not _fits(variable, array):
                shape, dtype = tf.TensorShape(variable.shape), tf.as_dtype(variable.dtype)
                problems.append(
                    f"{key}: the variable is {dtype.name} {shape}, the checkpoint has "
                    f"{_dtype(array.dtype).name} {array.shape}"
                )
        if problems:
            listing = "\n  ".join(problems)
            raise MismatchError(
                f"{len(problems)} variables of the SavedModel do not fit its checkpoint:\n  "
                f"{listing}\nIts files are not of one export; copy or export it again.",
                uri=uri,
            )

    def _asset_paths(self, assets: Mapping[str, bytes]) -> Iterator[tuple[int, str]]:
        """Yield the paths of assets, on disk until this object ends."""
        if not self.plan.assets:
            return
        folder = self._folder
        if folder is None:
            folder = tempfile.mkdtemp(prefix="asyncload-assets-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for number, name in self.plan.assets.items():
            path = Path(folder, "assets", name)
            if self._folder is None:
                if f"assets/{name}" not in assets:
                    raise Corrupt(f"has no asset {name!r}; export the model again", uri=self._uri)
                content = assets[f"assets/{name}"]
                path = write_asset(Path(folder), f"assets/{name}", content, uri=self._uri)
            yield number, os.fspath(path)


def _destroy(handles: list[Any]) -> None:
    with tf.init_scope():  # whoever drops the last signature may be tracing a function
        for handle in handles:
            with suppress(tf.errors.OpError):
                tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=True)


def _fits(variable: Any, array: Array) -> bool:
    if variable.dtype != _dtype(array.dtype).as_datatype_enum:
        return False
    if variable.shape.unknown_rank:
        return True
    sizes = [size.size for size in variable.shape.dim]
    return len(sizes) == array.ndim and all(
        size in (-1, found) for size, found in zip(sizes, array.shape, strict=True)
    )


@functools.cache
def _dtype(dtype: np.dtype[Any]) -> tf.DType:
    return tf.string if dtype.hasobject else tf.as_dtype(dtype)
