"""Every private API of TensorFlow and Keras that asyncload uses, and the test that it still works.

What stands here moves between releases. `fast_path()` tries all of it on a small model
when it is first needed; if anything differs from stock, the caller takes the stock path:
slower, same result.

Six things are private:

- ``EagerTensor(array, ...)`` aliases a 64-byte-aligned array instead of copying it;
- a `ResourceVariable` is put together from a handle, without an initial value;
- in a `Skeleton`, and on that thread only, Keras variables are made without running
  their initialisers;
- in a `Skeleton`, an optimizer that needs a variable has it initialised after all;
- in a `Skeleton`, plain attributes of a layer skip Keras' and TensorFlow's tracking,
  which would look at each and leave it as it is;
- Keras' walk over a model's state visits each attribute of each layer, and computes what
  to skip anew for each (``saving_lib.get_attr_skipset`` writes its cache under another name
  than it reads, Keras 3.15). `load_state` runs Keras' own ``_load_state``, with a walk that
  yields the same children in the same order from what is known of the class.
"""

from __future__ import annotations

import functools
import logging
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.layers.layer import Layer
from keras.src.saving import saving_lib, serialization_lib
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.saving.object_registration import get_registered_object
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow.python.framework import tensor_shape
from tensorflow.python.ops import gen_resource_variable_ops, resource_variable_ops

__all__ = [
    "Skeleton",
    "StateLoader",
    "StateStore",
    "as_tensor",
    "capture_scopes",
    "compile_as_saved",
    "deserialize",
    "fast_path",
    "is_registered",
]

Array = npt.NDArray[Any]
_logger = logging.getLogger("asyncload")
_here = threading.local()  # .unbound: variables of the Skeleton that is active on this thread


def as_tensor(array: Array) -> Any:
    """Return an eager CPU tensor of the array's bytes.

    Memory is shared, and kept alive by the tensor, if the array is C-contiguous and
    64-byte-aligned; otherwise TensorFlow copies.
    """
    eager = context.context()
    eager.ensure_initialized()
    return ops.EagerTensor(array, eager.device_name, None)


# --- variables without initialisers ---------------------------------------------------


def _in_skeleton() -> bool:
    return getattr(_here, "unbound", None) is not None


def _bind(variable: Any, tensor: Any) -> None:
    """Give a Keras variable that has no value yet this one, sharing its memory."""
    value = resource_variable_ops.ResourceVariable.__new__(resource_variable_ops.ResourceVariable)
    name = variable.name
    unique = f"{name}_{ops.uid()}"
    shape, dtype = tensor.shape, tensor.dtype
    handle = resource_variable_ops._variable_handle_from_shape_and_dtype(
        shape, dtype, shared_name=None, name=name, graph_mode=False
    )
    handle._parent_trackable = weakref.ref(value)
    handle._name = f"{name}:0"
    handle._unique_id = unique
    gen_resource_variable_ops.assign_variable_op(handle, tensor)
    resource_variable_ops.BaseResourceVariable.__init__(
        value,
        trainable=variable.trainable,
        shape=tensor_shape.as_shape(shape),
        dtype=dtype,
        handle=handle,
        synchronization=variable._map_synchronization(variable.synchronization),
        aggregation=variable._map_aggregation(variable.aggregation),
        name=name,
        unique_id=unique,
        handle_name=name,
        in_graph_mode=False,
    )
    variable._value = value
    variable._initializer = None


def _without_initialiser(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def _initialize_with_initializer(self: Any, initializer: Any) -> None:
        if not _in_skeleton():
            return stock(self, initializer)
        self._value = None
        self._initializer = initializer
        _here.unbound.append(self)

    return _initialize_with_initializer


def _still_deferred(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def _deferred_initialize(self: Any) -> None:
        if not _in_skeleton():
            return stock(self)
        _here.unbound.append(self)

    return _deferred_initialize


def _binding(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def _direct_assign(self: Any, value: Any) -> None:
        if not _in_skeleton() or self._value is not None:
            return stock(self, value)
        if isinstance(value, ops.EagerTensor) and value.dtype.name == self._dtype:
            _bind(self, value)
        else:
            self._initialize(value)
            self._initializer = None

    return _direct_assign


def _aliasing(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def _convert_to_tensor(self: Any, value: Any, dtype: Any = None) -> Any:
        if _in_skeleton() and isinstance(value, np.ndarray) and value.dtype.name == dtype:
            return as_tensor(value)
        return stock(self, value, dtype)

    return _convert_to_tensor


def _initialising(stock: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def _var_key(self: Any, variable: Any) -> Any:
        # A model inside the model may be compiled before its values have come; its optimizer
        # identifies variables by the TensorFlow variable, so there has to be one.
        if _in_skeleton() and getattr(variable, "_value", variable) is None:
            variable._initialize(lambda: variable._initializer(variable._shape, variable._dtype))
            variable._initializer = None
        return stock(self, variable)

    return _var_key


# --- plain attributes ------------------------------------------------------------------

_PLAIN = frozenset({bool, int, float, str, type(None), types.FunctionType})
_SETTERS_KNOWN: dict[type, bool] = {}


@functools.cache
def _stock_setters() -> frozenset[type]:
    return frozenset(kind for kind in Layer.__mro__ if "__setattr__" in vars(kind))


def _has_only_stock_setters(kind: type) -> bool:
    known = _SETTERS_KNOWN.get(kind)
    if known is None:
        owners = {base for base in kind.__mro__ if "__setattr__" in vars(base)}
        known = owners <= _stock_setters()
        _SETTERS_KNOWN[kind] = known
    return known


def _untracked_when_plain(stock: Callable[[Any, str, Any], None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def __setattr__(self: Any, name: str, value: Any) -> None:
        # A name that the class has too may be a property, which stock knows how to treat.
        if (
            type(value) in _PLAIN
            and _in_skeleton()
            and "_tracker" in self.__dict__
            and not hasattr(type(self), name)
            and _has_only_stock_setters(type(self))
        ):
            object.__setattr__(self, name, value)
        else:
            stock(self, name, value)

    return __setattr__


# --- the walk over a model's state -------------------------------------------------------


def _remember_skipset(kind: str) -> frozenset[str] | set[str]:
    skipset: set[str] = saving_lib.get_attr_skipset(kind)
    global_state.set_global_attribute(f"saving_attr_skiplist_{kind}", skipset)
    return skipset


@functools.lru_cache(maxsize=4096)
def _class_attributes(kind: type, skipset: frozenset[str]) -> tuple[str, ...]:
    return tuple(a for a in dir(kind) if not a.startswith("__") and a not in skipset)


def _walk(saveable: Any) -> Iterator[tuple[str, Any]]:
    """Yield the children that ``saving_lib._walk_saveable`` yields and its callers look at."""
    kind = saveable._obj_type()
    skipset = frozenset(_remember_skipset(kind))
    if kind in ("Sequential", "Functional"):
        yield "layers", saveable.layers
    own = [a for a in vars(saveable) if not a.startswith("__") and a not in skipset]
    names = {*own, *_class_attributes(type(saveable), skipset)}
    for name in sorted(names, key=saving_lib._name_key):
        try:
            child = getattr(saveable, name)
        except Exception:  # noqa: S112 - as stock: an attribute that fails is no child
            continue
        if isinstance(child, (KerasSaveable, list, dict, tuple)):
            yield name, child


def _quick_walk(stock: Callable[[Any], Iterator[tuple[str, Any]]]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def _walk_saveable(saveable: Any) -> Iterator[tuple[str, Any]]:
        plain = type(saveable).__dir__ is object.__dir__ and hasattr(saveable, "__dict__")
        return _walk(saveable) if _in_skeleton() and plain else stock(saveable)

    return _walk_saveable


class StateStore(saving_lib.H5IOStore):  # type: ignore[misc]
    """The weights of a file, in memory, as Keras' ``_load_state`` asks for them.

    Args:
        arrays: dataset path (``"layers/dense/vars/0"``) -> array; the arrays stay the caller's.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        # The base class would open a file; it is a base only because Keras tests for it.
        self.groups: dict[str, dict[str, Array]] = {}
        self._entry: Mapping[str, Array] = {}
        self.path = ""
        for path, array in arrays.items():
            group, _, name = f"/{path}".rpartition("/vars/")
            self.groups.setdefault(group.lstrip("/"), {})[name] = array
        self._parents = {
            path[:end] for path in self.groups for end, c in enumerate(path + "/") if c == "/"
        }

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._entry)

    def __contains__(self, key: object) -> bool:
        return key in self._entry

    def __getitem__(self, key: str) -> Any:
        return self._entry[key]

    def keys(self) -> Any:
        """Return the names of the variables of the object asked for last."""
        return self._entry.keys()

    def get(self, path: str) -> StateStore:
        """Turn to the object at ``path``; one that the file does not have has no variables."""
        self.path = path
        entry = self.groups.get(path)
        if entry is None and "_layer_checkpoint_dependencies" in self._parents:
            # As Keras reads files of its version 2.13.
            entry = self.groups.get(path.replace("layers", "_layer_checkpoint_dependencies"))
        self._entry = entry or {}
        return self

    def has_path(self, path: str) -> bool:
        """Whether the file has anything at or below ``path``."""
        return path in self._parents

    def close(self) -> None:
        """Let go of the arrays."""
        self.groups, self._entry = {}, {}


class _Errors(dict[int, tuple[Any, Exception]]):
    """Keras' ``error_msgs``, which also notes where in the file each object was looked for."""

    def __init__(self, store: StateStore) -> None:
        super().__init__()
        self._store = store
        self.paths: dict[int, str] = {}

    def __setitem__(self, key: int, value: tuple[Any, Exception]) -> None:
        self.paths[key] = self._store.path
        super().__setitem__(key, value)


class StateLoader:
    """Puts the state of a file into a model, as Keras' ``_load_state`` does.

    Args:
        store: the file's weights.
        assets: the folder that holds the file's assets; ``None`` if it has none.

    Attributes:
        errors: what failed, as Keras collects it: id -> (object, error).
    """

    def __init__(self, store: StateStore, assets: str | None) -> None:
        self._store = store
        self._assets = saving_lib.DiskIOStore(assets, mode="r") if assets is not None else None
        self._visited: set[int] = set()
        self._failed: set[int] = set()
        self.errors = _Errors(store)

    def load(self, model: Any) -> None:
        """Load what `model` owns and has not been loaded yet; a second call finds what is new."""
        self._visited.discard(id(model))
        saving_lib._load_state(
            model,
            weights_store=self._store,
            assets_store=self._assets,
            inner_path="",
            visited_saveables=self._visited,
            failed_saveables=self._failed,
            error_msgs=self.errors,
        )


    def misfits(self) -> list[str] | None:
        """Say of every variable that failed what the model has and what the file has.

        Returns:
            A line for each; ``None`` if some failure has another reason than a variable's shape
            or its absence.
        """
        lines: list[str] = []
        for key, (owner, _) in self.errors.items():
            if not type(owner).load_own_variables.__module__.startswith("keras."):
                return None
            found = _misfits(owner, self._store.groups, self.errors.paths[key])
            if not found:
                return None
            lines.extend(found)
        return lines


def _misfits(owner: Any, groups: Mapping[str, Mapping[str, Array]], path: str) -> list[str]:
    if isinstance(owner, Layer):
        variables = owner._trainable_variables + owner._non_trainable_variables
    else:
        variables = owner.variables
    expected = {str(number): variable for number, variable in enumerate(variables)}
    entry = groups.get(path, {})
    lines = []
    for name in sorted({*expected, *entry}, key=lambda text: (len(text), text)):
        variable, array = expected.get(name), entry.get(name)
        wanted = _describe(variable and variable.path, variable)
        got = _describe("the file", array)
        if variable is None:
            lines.append(f"{path}/vars/{name}: {got}, the model has no such variable")
        elif array is None:
            lines.append(f"{path}/vars/{name}: {wanted}, the file has no such tensor")
        elif tuple(variable.shape) != array.shape:
            lines.append(f"{path}/vars/{name}: {wanted}, {got}")
    return lines


def _describe(name: str | None, holder: Any) -> str:
    return "" if holder is None else f"{name} has {tuple(holder.shape)} {holder.dtype}"


# --- the skeleton -----------------------------------------------------------------------

_install_lock = threading.Lock()
_installed = False


def _install() -> None:
    """Put the overrides in place, once; outside of a `Skeleton` each one calls stock."""
    global _installed
    with _install_lock:
        if _installed:
            return
        variable = keras.Variable
        variable._initialize_with_initializer = _without_initialiser(
            variable._initialize_with_initializer
        )
        variable._deferred_initialize = _still_deferred(variable._deferred_initialize)
        variable._direct_assign = _binding(variable._direct_assign)
        variable._convert_to_tensor = _aliasing(variable._convert_to_tensor)
        TFOptimizer._var_key = _initialising(TFOptimizer._var_key)
        Layer.__setattr__ = _untracked_when_plain(Layer.__setattr__)
        saving_lib._walk_saveable = _quick_walk(saving_lib._walk_saveable)
        _installed = True


class Skeleton:
    """Keras objects that are made without running initialisers.

    Variables made in `active` get their values by being assigned to; `finish` initialises
    those that never were (seeds, metrics: what no file holds) as stock would have.
    """

    def __init__(self) -> None:
        _install()
        self._unbound: list[Any] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make and bind objects on this thread until the block ends; may be entered again."""
        outer = getattr(_here, "unbound", None)
        _here.unbound = self._unbound
        try:
            yield
        finally:
            _here.unbound = outer

    def finish(self) -> None:
        """Initialise what has no value yet."""
        for variable in self._unbound:
            if variable._value is None:
                variable._deferred_initialize()
        self._unbound.clear()


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


def is_registered(name: str) -> bool:
    """Whether Keras knows an object of the caller's by this name, in the scopes of this thread."""
    return get_registered_object(name) is not None


_SCOPES = ("custom_objects_scope_dict", "safe_mode_saving")


def capture_scopes() -> Callable[[], Any]:
    """Capture the Keras scopes of this thread; the result, called, enters them on another one."""
    found = {name: global_state.get_global_attribute(name) for name in _SCOPES}

    @contextmanager
    def enter() -> Iterator[None]:
        before = {name: global_state.get_global_attribute(name) for name in _SCOPES}
        _set_scopes(found)
        try:
            yield
        finally:
            _set_scopes(before)

    return enter


def _set_scopes(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is not None:
            global_state.set_global_attribute(name, value)
        else:
            global_state.set_global_attribute(name, {} if name.endswith("dict") else None)


# --- the self-test -----------------------------------------------------------------------


def _try_everything() -> None:
    """Build a small model with all of the above, and compare it with what stock makes."""
    layers = keras.layers
    stock = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.BatchNormalization()])
    config = keras.saving.serialize_keras_object(stock)
    state: dict[str, Array] = {}
    for index, layer in enumerate(stock.layers):
        path = f"layers/{('dense', 'batch_normalization')[index]}/vars"
        for number, variable in enumerate(layer.weights):
            buffer = np.empty(variable.numpy().nbytes + 64, np.uint8)
            start = -buffer.ctypes.data % 64
            view = buffer[start : start + variable.numpy().nbytes].view(variable.dtype)
            view[:] = variable.numpy().ravel() + number + 1
            state[f"{path}/{number}"] = view.reshape(variable.shape)
    skeleton = Skeleton()
    with skeleton.active():
        built = deserialize(config, None, True)
        if any(variable._value is not None for variable in built.weights):
            raise AssertionError("initialisers still run")
        loader = StateLoader(StateStore(state), None)
        loader.load(built)
    skeleton.finish()
    if loader.errors:
        raise AssertionError(f"the state did not load: {loader.errors}")
    for variable, array in zip(built.weights, state.values(), strict=True):
        if not np.array_equal(variable.numpy(), array):
            raise AssertionError(f"{variable.path} has other values than the file")
        if type(variable.value) is not type(stock.weights[0].value):
            raise AssertionError(f"{variable.path} is a {type(variable.value)}")
    built(np.ones((1, 3), "float32"))


@functools.cache
def fast_path() -> bool:
    """Whether the private APIs do what is needed of them; tried at the first call.

    Warns once if they do not, and says with which versions.
    """
    try:
        if keras.backend.backend() != "tensorflow":
            raise AssertionError(f"Keras runs on {keras.backend.backend()}, not on TensorFlow")
        _try_everything()
    except Exception as error:
        _logger.debug("the fast path failed its self-test", exc_info=True)
        warnings.warn(
            f"asyncload cannot use its fast path with Keras {keras.__version__} ({error}); models "
            "load through keras.models.load_model instead, slower, with the same result",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
