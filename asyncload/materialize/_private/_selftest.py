"""The test that the private APIs still do what is needed of them."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from asyncload.materialize.runtime import calls_functions

from ._assign import recording
from ._build import Skeleton, deserialize
from ._caller import CapturedScopes, in_pristine_thread
from ._legacy import build_legacy, parse_legacy
from ._rebind import drop, exchange
from ._saved_model import Reconstruction
from ._state import StateLoader, StateStore
from ._trackables import TargetGraph, restorables
from ._variables import Array, as_tensor

__all__ = ["fast_path", "reuse_path", "saved_models_work", "trackables_work"]

_logger = logging.getLogger("asyncload")


def _try_everything() -> None:
    """Build a small model with all of the above, and compare it with what stock makes."""
    if keras.backend.backend() != "tensorflow":
        raise AssertionError(f"Keras runs on {keras.backend.backend()}, not on TensorFlow")
    layers = keras.layers
    # An initialiser that draws no seed: the program's own draws are not to change.
    dense = layers.Dense(2, kernel_initializer="ones")
    stock = keras.Sequential([keras.Input((3,)), dense, layers.BatchNormalization()])
    config = keras.saving.serialize_keras_object(stock)
    state: dict[str, Array] = {}
    for index, layer in enumerate(stock.layers):
        path = f"layers/{('dense', 'batch_normalization')[index]}/vars"
        for number, variable in enumerate(layer.weights):
            state[f"{path}/{number}"] = _aligned(variable.numpy() + number + 1)
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
        if variable.value.name != f"{variable.path}:0":
            raise AssertionError(f"{variable.path} has the name {variable.value.name}")
    built(np.ones((1, 3), "float32"))
    _try_recording(built, state)
    _try_legacy()
    _try_scopes()


def _try_recording(built: keras.Model, state: dict[str, Array]) -> None:
    """Assign other values to the model, all at once."""
    values = [variable._value for variable in built.weights]
    with recording(quick=True) as recorded:
        for variable, array in zip(built.weights, state.values(), strict=True):
            variable.assign(array * 2)
            if variable._value.numpy().tobytes() != array.tobytes():
                raise AssertionError(f"{variable.path} was assigned to before its time")
    recorded.commit()
    for variable, value, array in zip(built.weights, values, state.values(), strict=True):
        if variable._value is not value or not np.array_equal(variable.numpy(), array * 2):
            raise AssertionError(f"{variable.path} did not get its new value")


_ONES = {"kernel_initializer": {"class_name": "Ones", "config": {}}}


def _try_legacy() -> None:
    """Build a model from a config as Keras 2 wrote it."""
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3], "name": "in"}},
        {"class_name": "Dense", "config": {"units": 2, "name": "dense", **_ONES}},
    ]
    skeleton = Skeleton()
    with skeleton.active():
        config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
        built = build_legacy(parse_legacy(json.dumps(config).encode()), {}, True)
    if any(variable._value is not None for variable in built.weights):
        raise AssertionError("initialisers still run in legacy models")
    skeleton.finish()
    if [variable.shape for variable in built.weights] != [(3, 2), (2,)]:
        raise AssertionError(f"a legacy model has other weights: {built.weights}")


def _try_scopes() -> None:
    """Take what this thread has set to another one, and back what that one sets."""
    count = keras.backend.get_uid("asyncload")
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope(), tf.name_scope("a"):
        keras.config.set_dtype_policy("float64")
        captured = CapturedScopes()
        found = in_pristine_thread(lambda: _found_in(captured))
    if captured.reason is None or CapturedScopes().reason is not None:
        raise AssertionError("scopes of the caller are not noticed")
    if found != (strategy, "a/v:0", "float64", count + 1):
        raise AssertionError(f"scopes of the caller are lost: {found}")
    captured.hand_back()
    if keras.backend.get_uid("asyncload") != count + 2:
        raise AssertionError("automatic names are used twice")


def _found_in(scopes: CapturedScopes) -> tuple[Any, str, str, int]:
    with scopes():
        name = tf.Variable(0.0, name="v").name
        policy, count = keras.config.dtype_policy().name, keras.backend.get_uid("asyncload")
        return tf.distribute.get_strategy(), name, policy, count


def _aligned(value: Array) -> Array:
    buffer = np.empty(value.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    view = buffer[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    view[...] = value
    return view


def _try_trackables() -> None:
    """Put values into a variable in a list and into a table, and take them back."""
    module = tf.Module()
    module.variables_ = [tf.Variable([1.0, 2.0])]
    module.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, -1)
    target = TargetGraph(module)
    variable = target.child(target.child(target.root, "variables_"), "0")
    if variable is not module.variables_[0] or target.child(target.root, "nothing") is not None:
        raise AssertionError("children of trackable objects are not found by their names")
    array = _aligned(np.array([3.0, 4.0], np.float32))
    (value,) = restorables(variable, [("VARIABLE_VALUE", "v/.ATTRIBUTES/VARIABLE_VALUE")], "")
    undo = value.keep()
    value.put([array])
    if np.asarray(memoryview(variable.read_value())).ctypes.data != array.ctypes.data:
        raise AssertionError("a variable does not share the memory of the array")
    undo()
    if variable.numpy().tolist() != [1.0, 2.0]:
        raise AssertionError("a variable did not get its old value back")
    attributes = [(f"table-{part}", f"t/.ATTRIBUTES/table-{part}") for part in ("keys", "values")]
    (content,) = restorables(module.table, attributes, "")
    if [wanted.key for wanted in content.wanted] != [key for _, key in attributes]:
        raise AssertionError("a table is not restored from what it saves")
    content.put([np.array([5, 6]), np.array([7, 8])])
    if module.table.lookup(tf.constant([5, 6], tf.int64)).numpy().tolist() != [7, 8]:
        raise AssertionError("a table did not get its content")


def _try_reuse() -> None:
    """Empty a variable that a traced function reads, and give it another value."""
    variable = keras.Variable(np.array([1.0, 2.0], np.float32))
    holder = variable._value
    # Autograph would read this file, to rewrite nothing: half of the time of all this.
    traced = tf.function(lambda x: x + variable.value, autograph=False)
    if traced(tf.constant([1.0, 1.0])).numpy().tolist() != [2.0, 3.0]:
        raise AssertionError("a traced function gave something else")
    drop([(holder.handle, 1, holder.dtype)])
    if variable.value.read_value().shape.rank != 2:
        raise AssertionError("a variable was not emptied")
    array = _aligned(np.array([3.0, 4.0], np.float32))
    exchange([(holder.handle, as_tensor(array))])
    if np.asarray(memoryview(holder.read_value())).ctypes.data != array.ctypes.data:
        raise AssertionError("a variable does not share the memory of its new value")
    if traced(tf.constant([1.0, 1.0])).numpy().tolist() != [4.0, 5.0]:
        raise AssertionError("a traced function did not see the new value of a variable")
    if traced.experimental_get_tracing_count() != 1:
        raise AssertionError("a function was traced again for a new value")


@functools.cache
def reuse_path() -> bool:
    """Whether variables can be emptied and refilled; tried at the first call, as the others."""
    return calls_functions() and _passes(_try_reuse, "a build of its own")


@functools.cache
def trackables_work() -> bool:
    """Whether values get into trackable objects; tried at the first call, as `fast_path` is."""
    return _passes(_try_trackables, "tf.train.Checkpoint.restore and tf.saved_model.load")


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _with_own_gradient(x: Any) -> Any:
    return x * 2.0, lambda upstream: upstream * 7.0


def _saved_module() -> tf.Module:
    module = tf.Module()
    module.variable = tf.Variable([1.0, 2.0])
    keys = tf.lookup.KeyValueTensorInitializer([3], [4], tf.int64, tf.int64)
    module.table = tf.lookup.StaticHashTable(keys, -1)

    def call(x: Any) -> Any:
        with tf.device("/device:CPU:0"):
            found = module.table.lookup(tf.cast(x, tf.int64))
        return tf.cast(found, tf.float32), _with_own_gradient(x) * module.variable

    signature = [tf.TensorSpec([], tf.float32)]
    module.call = tf.function(call, input_signature=signature, autograph=False)
    return module


def _try_saved_models() -> None:
    """Take a SavedModel apart and put it together again, and compare it with what stock makes."""
    module = _saved_module()
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    with tempfile.TemporaryDirectory(prefix="asyncload-") as folder:
        tf.saved_model.save(module, folder, options=options)
        stock = tf.saved_model.load(folder)
        made = Reconstruction(folder)
    if made.root.variable.is_initialized():
        raise AssertionError("tf.saved_model.load reads values")
    made.root.variable.assign(module.variable)
    made.finish()
    if _placements(made.root) != _placements(stock):
        raise AssertionError("operations of functions are not what stock makes of them")
    x = tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found, scaled = made.root.call(x)
    if found.numpy() != 4 or tape.gradient(scaled, x).numpy() != 21:
        raise AssertionError("tables or gradients of a SavedModel are lost")


def _placements(root: Any) -> list[tuple[str, str, list[bytes]]]:
    (function,) = root.call.concrete_functions
    return [
        (one.name, one.device, one.colocation_groups()) for one in function.graph.get_operations()
    ]


@functools.cache
def saved_models_work() -> bool:
    """Whether SavedModels can be loaded in two steps; tried at the first call, as the others."""
    return _passes(_try_saved_models, "tf.saved_model.load")


@functools.cache
def fast_path() -> bool:
    """Whether the private APIs do what is needed of them; tried at the first call.

    Warns once if they do not, and says with which versions.
    """
    return _passes(_try_everything, "keras.models.load_model")


def _passes(test: Callable[[], None], stock: str) -> bool:
    try:
        in_pristine_thread(test)
    except Exception as error:
        _logger.debug("the fast path failed its self-test", exc_info=True)
        warnings.warn(
            f"asyncload cannot use its fast path with TensorFlow {tf.__version__} and Keras "
            f"{keras.__version__} ({error}); models load through {stock} instead, slower, with "
            "the same result",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True
