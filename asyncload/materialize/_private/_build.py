"""Models made as a skeleton: Keras' own deserialisation, with the overrides in force."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.layers import layer
from keras.src.layers.preprocessing.index_lookup import IndexLookup
from keras.src.models import functional
from keras.src.ops import operation
from keras.src.saving import saving_lib, serialization_lib
from keras.src.saving.object_registration import get_registered_object
from keras.src.tree import tree_api
from keras.src.utils import naming

from asyncload.forks import OwnLock
from asyncload.materialize._turn import with_rests

from . import _caller, _variables
from ._attributes import untracked_when_plain
from ._dropped import noting_layers
from ._lookups import (
    forget,
    quick_flatten,
    quick_inspect,
    quick_is_nested,
    quick_is_tensor,
    quick_map_structure,
    quick_snake_case,
)
from ._state import copying_for_own_ways, quick_walk
from ._vocabularies import in_parts

__all__ = [
    "Skeleton",
    "compile_as_saved",
    "deserialize",
    "own_of_any_package",
    "registered",
    "safe_mode_here",
]

_install_lock = OwnLock()


def _install() -> None:
    """Put the overrides in place, once; outside of a `Skeleton` each one calls stock."""
    with _install_lock:
        if hasattr(saving_lib._walk_saveable, "__wrapped__"):
            return
        _caller.install()
        variable = keras.Variable
        variable._initialize_with_initializer = _variables.without_initialiser(
            variable._initialize_with_initializer
        )
        variable._deferred_initialize = _variables.still_deferred(variable._deferred_initialize)
        variable.value = _variables.made_when_read(variable.value)
        variable._direct_assign = _variables.binding(variable._direct_assign)
        variable._convert_to_tensor = _variables.aliasing(variable._convert_to_tensor)
        TFOptimizer._var_key = _variables.initialising(TFOptimizer._var_key)
        layer.Layer.__setattr__ = untracked_when_plain(layer.Layer.__setattr__)
        backend.is_tensor = quick_is_tensor(backend.is_tensor)
        tree = tree_api.tree_impl
        tree.is_nested = quick_is_nested(tree.is_nested)
        tree.flatten = quick_flatten(tree.flatten, tree.is_nested)
        tree.map_structure = quick_map_structure(tree.map_structure, tree.is_nested)
        in_parts(IndexLookup)
        normalization = keras.layers.Normalization
        normalization.build = _variables.bounded_normalization(normalization.build)
        naming.to_snake_case = quick_snake_case(naming.to_snake_case)
        for module in (operation, layer):
            module.inspect = quick_inspect(module.inspect)
        functional.deserialize_node = noting_layers(
            functional.deserialize_node, _variables.note_layers
        )
        saving_lib._load_state = copying_for_own_ways(saving_lib._load_state)
        saving_lib._walk_saveable = quick_walk(saving_lib._walk_saveable)


class Skeleton:
    """Keras objects that are made without running initialisers.

    Variables made in `active` get their values by being assigned to; `finish` initialises
    those that never were (seeds, metrics: what no file holds) as stock would have.

    Args:
        seconds: CPU time that all of it may take; ``None`` for any. Once it is over, what Keras
            calls often raises `OutOfTime`.
        state: bytes that it may make besides variables; ``None`` for any.

    Attributes:
        origins: variables and the arrays that they were assigned, in order. Who is done with them
            clears it.
        made: layers that were made, models that Keras made on its way among them.
    """

    def __init__(self, seconds: float | None = None, state: int | None = None) -> None:
        _install()
        forget()
        self._timer = _variables.Timer(math.inf if seconds is None else seconds)
        self._claims = _variables.Claims(math.inf if state is None else state)
        self._unbound: dict[int, tuple[Any, str]] = {}
        self.origins: list[tuple[Any, _variables.Array]] = []
        self.made: list[weakref.ref[Any]] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make and bind objects on this thread until the block ends; may be entered again."""
        here = _variables.here
        names = ("unbound", "origins", "made", "created", "claims")
        outer = [getattr(here, name, None) for name in names]
        created: dict[int, dict[Any, Any]] = {}
        here.unbound, here.origins, here.made = self._unbound, self.origins, self.made
        here.created, here.claims = created, self._claims
        try:
            with self._timer.running():
                yield
        finally:
            here.unbound, here.origins, here.made, here.created, here.claims = outer
            for layers in created.values():
                layers.clear()

    def stop(self) -> None:
        """Make nothing more: nobody wants it. From any thread."""
        self._timer.stop()

    @property
    def is_late(self) -> bool:
        """Whether it took as long as it may."""
        return self._timer.left <= 0

    @property
    def excess(self) -> int:
        """Bytes that it would have made besides variables, if that is more than it may; or 0."""
        return self._claims.made if self._claims.made > self._claims.most else 0

    @property
    def declared(self) -> int:
        """Bytes of the variables that `finish` would initialise."""
        return sum(
            math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
            for variable, _ in with_rests(self._unbound.values())
            if variable._value is None
        )

    def finish(self) -> None:
        """Initialise what has no value yet."""
        for variable, scope in with_rests(self._unbound.values()):
            if variable._value is None:
                with _variables.scope_of_name(scope):
                    variable._deferred_initialize()
        self._unbound.clear()
        forget()  # functions that refer to layers among the questions


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None, safe_mode: bool
) -> Any:
    """Make the model of a parsed ``config.json``, as ``keras.models.load_model`` does.

    It is not compiled: an optimizer asks for the variables' values, which come later.
    """
    bare = {**config, "compile_config": None}
    with saving_lib.ObjectSharingScope():
        return saving_lib.deserialize_keras_object(
            bare, dict(custom_objects or {}), safe_mode=safe_mode
        )


def compile_as_saved(
    model: Any,
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None,
    safe_mode: bool,
) -> None:
    """Compile a model with what its ``config.json`` says of it, if it says anything."""
    compile_config = config.get("compile_config")
    if compile_config:
        scope = keras.saving.custom_object_scope(dict(custom_objects or {}))
        with scope, serialization_lib.SafeModeScope(safe_mode):
            model.compile_from_config(compile_config)
        model.compiled = True


def registered(name: str) -> Any:
    """Return the caller's object that Keras knows by this name, in the scopes of this thread."""
    return get_registered_object(name)


def own_of_any_package(name: str, custom_objects: Mapping[str, Any]) -> Any:
    """Return the caller's object whose name ends so, package aside: Keras 3.6 left packages out."""
    scope = global_state.get_global_attribute("custom_objects_scope_dict", {})
    known = {**custom_objects, **scope, **keras.saving.get_custom_objects()}
    return next((value for key, value in known.items() if key.endswith(name)), None)


def safe_mode_here(wanted: bool) -> bool:
    """Return whether Keras is in safe mode, where a load asks for that or not."""
    set_by_scope = serialization_lib.in_safe_mode()
    return wanted if set_by_scope is None else bool(set_by_scope)
