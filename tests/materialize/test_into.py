"""New values of variables that live: shared memory, and nothing changed by what fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from asyncload.errors import MismatchError
from asyncload.materialize import _private
from asyncload.materialize._private import _assign, _variables
from asyncload.materialize.keras import capture_scopes
from asyncload.materialize.keras_into import NamedAssignment, StateAssignment
from tests.equality import same_bytes

from .test_model_build import aligned

Arrays = Mapping[str, np.ndarray[Any, Any]]


def model() -> Any:
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((3,)), *layers])


def read(path: Path) -> Arrays:
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = aligned(np.asarray(item[()]))

    with h5py.File(path) as file:
        file.visititems(visit)
    return arrays


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    path = tmp_path_factory.mktemp("into") / "m.weights.h5"
    model().save_weights(path)
    return read(path)


def assign(target: Any, arrays: Arrays, kind: Any = StateAssignment) -> None:
    made = kind(target, uri="m", skip_mismatch=False, scopes=capture_scopes())
    made.assign({}, arrays)


def address(variable: Any) -> int:
    # NumPy's view, not a copy.
    return int(np.asarray(memoryview(variable.value.read_value())).ctypes.data)


def test_variables_share_the_memory_and_stay_the_same_objects(arrays: Arrays) -> None:
    target = model()
    held = [variable._value for variable in target.weights]
    assign(target, arrays)
    addresses = {array.ctypes.data for array in arrays.values()}
    for variable, before in zip(target.weights, held, strict=True):
        assert variable._value is before
        assert address(variable) in addresses, variable.path


def test_arrays_that_are_not_aligned_are_copied(arrays: Arrays) -> None:
    def moved(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        buffer = np.empty(array.nbytes + 128, np.uint8)
        start = -buffer.ctypes.data % 64 + 4
        copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    target, other = model(), model()
    assign(target, {name: moved(array) for name, array in arrays.items()})
    assign(other, arrays)
    for one, two in zip(target.weights, other.weights, strict=True):
        assert same_bytes(one.numpy(), two.numpy())


def test_training_does_not_write_to_the_file_s_memory(arrays: Arrays) -> None:
    target = model()
    before = {name: array.copy() for name, array in arrays.items()}
    assign(target, arrays)
    target.compile(keras.optimizers.SGD(1.0), "mse")
    target.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert all(same_bytes(arrays[name], before[name]) for name in arrays)
    assert not same_bytes(target.layers[2].bias.numpy(), before["layers/dense_1/vars/1"])


def test_values_are_seen_in_a_recording_and_not_outside(arrays: Arrays) -> None:
    target = model()
    kernel = target.layers[0].kernel
    before = kernel.numpy()
    with _private.recording(quick=True) as recorded:
        kernel.assign(np.full((3, 4), 7, "f4"))
        assert (np.asarray(keras.ops.convert_to_numpy(kernel.value)) == 7).all()
        assert same_bytes(kernel._value.numpy(), before)
    assert same_bytes(kernel.numpy(), before)
    recorded.commit()
    assert (kernel.numpy() == 7).all()


def test_a_commit_that_fails_halfway_is_undone(
    arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = model()
    before = [variable.numpy() for variable in target.weights]
    stock, calls = _assign.assign_value, 0

    def failing(holder: Any, value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise MemoryError("no more")
        stock(holder, value)

    monkeypatch.setattr(_assign, "assign_value", failing)
    with pytest.raises(MemoryError):
        assign(target, arrays)
    assert calls > 5
    for variable, value in zip(target.weights, before, strict=True):
        assert same_bytes(variable.numpy(), value)


def test_no_scope_is_left_behind(arrays: Arrays) -> None:
    target = model()
    with pytest.raises(MismatchError):
        assign(target, dict(list(arrays.items())[:2]))
    with pytest.raises(MismatchError):
        assign(target, arrays, NamedAssignment)
    assert not _variables.here.recording
    keras.Variable(np.ones(2))  # which a scope would forbid
    target.layers[0].kernel.assign(np.ones((3, 4)))
    assert (target.layers[0].kernel.numpy() == 1).all()


def test_a_walk_over_a_model_that_lives_finds_what_keras_finds() -> None:
    from keras.src.saving import saving_lib

    target = model()
    target.compile("adam", "mse", metrics=["mae"])
    target.optimizer.build(target.trainable_variables)
    stock = [name for name, _ in saving_lib._walk_saveable(target)]
    with _private.recording(quick=True):
        quick = [name for name, _ in saving_lib._walk_saveable(target)]
    kept = (keras.layers.Layer, keras.optimizers.Optimizer, keras.metrics.Metric, list, dict, tuple)
    relevant = [name for name in stock if isinstance(getattr(target, name), kept)]
    assert "optimizer" in quick
    assert [name for name in quick if name in relevant] == relevant
