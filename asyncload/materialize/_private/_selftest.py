"""The test that the private APIs still do what is needed of them."""

from __future__ import annotations

import functools
import json
import logging
import warnings

import keras
import numpy as np

from ._assign import recording
from ._build import Skeleton, deserialize
from ._legacy import build_legacy, parse_legacy
from ._state import StateLoader, StateStore
from ._variables import Array

__all__ = ["fast_path"]

_logger = logging.getLogger("asyncload")


def _try_everything() -> None:
    """Build a small model with all of the above, and compare it with what stock makes."""
    if keras.backend.backend() != "tensorflow":
        raise AssertionError(f"Keras runs on {keras.backend.backend()}, not on TensorFlow")
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
    _try_recording(built, state)
    _try_legacy()


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


def _try_legacy() -> None:
    """Build a model from a config as Keras 2 wrote it."""
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3], "name": "in"}},
        {"class_name": "Dense", "config": {"units": 2, "name": "dense"}},
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


@functools.cache
def fast_path() -> bool:
    """Whether the private APIs do what is needed of them; tried at the first call.

    Warns once if they do not, and says with which versions.
    """
    try:
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
