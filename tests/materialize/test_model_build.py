"""Models built without initialisers equal those that Keras loads."""

from __future__ import annotations

import json
import sys
import threading
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable

from asyncload import resting
from asyncload.errors import Corrupt, FormatError, MismatchError, Unsafe
from asyncload.materialize import CannotBuildFast, _private
from asyncload.materialize.keras import ModelBuild, capture_scopes
from tests.equality import assert_same_model, same_bytes
from tests.zoo import CUSTOM_OBJECTS, ZOO, save

Arrays = dict[str, np.ndarray[Any, Any]]


def aligned(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    buffer = np.empty(value.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    copy.flags.writeable = False
    return copy


def read(path: Path) -> tuple[bytes, Arrays, dict[str, bytes]]:
    """Read an archive with the stock libraries: config, arrays by dataset path, assets."""
    arrays: Arrays = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = np.asarray(item[()])
            kind = item.attrs.get("dtype")
            value = value.view(getattr(ml_dtypes, kind)) if kind else value
            arrays[name] = aligned(value.reshape(item.shape))

    with zipfile.ZipFile(path) as archive:
        with archive.open("model.weights.h5") as member, h5py.File(member) as file:
            file.visititems(visit)
        assets = {
            name.removeprefix("assets/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("assets/") and not name.endswith("/")
        }
        return archive.read("config.json"), arrays, assets


def build(config: bytes, **options: Any) -> ModelBuild:
    defaults = {"custom_objects": CUSTOM_OBJECTS, "compile": True, "safe_mode": True}
    made = ModelBuild(uri="model.keras", scopes=capture_scopes(), **{**defaults, **options})
    made.read({"config.json": config})
    made.construct()
    return made


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_model_equals_stock(name: str, tmp_path: Path) -> None:
    path = save(name, tmp_path)
    config, arrays, assets = read(path)
    made = build(config)
    model = made.bind(arrays, assets)
    stock = keras.models.load_model(path, custom_objects=CUSTOM_OBJECTS)
    assert_same_model(model, stock)


def test_no_initialiser_runs_and_no_value_is_copied(tmp_path: Path) -> None:
    config, arrays, assets = read(save("functional", tmp_path))
    ran: list[str] = []
    with watching_initialisers(ran):
        made = build(config, compile=False)
        model = made.bind(arrays, assets)
    assert ran == []
    addresses = {array.ctypes.data for array in arrays.values() if array.nbytes}
    for variable in model.weights:
        own = np.asarray(memoryview(variable.value.read_value()))  # NumPy's view, not a copy
        assert own.ctypes.data in addresses, variable.path


@contextmanager
def watching_initialisers(ran: list[str]) -> Iterator[None]:
    stock = keras.initializers.GlorotUniform.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append("GlorotUniform")
        return stock(self, *args, **kwargs)

    keras.initializers.GlorotUniform.__call__ = call
    try:
        yield
    finally:
        keras.initializers.GlorotUniform.__call__ = stock


def test_other_threads_see_stock_keras_meanwhile(tmp_path: Path) -> None:
    config, _, _ = read(save("functional", tmp_path))
    wrong: list[str] = []
    done = threading.Event()

    def elsewhere() -> None:
        while not done.is_set():
            layer = keras.layers.Dense(4)
            layer.build((None, 4))
            if layer.kernel._value is None:
                wrong.append(layer.name)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        for _ in range(3):
            build(config)
    finally:
        done.set()
        thread.join()
    assert wrong == []


def test_training_does_not_write_to_the_arrays(tmp_path: Path) -> None:
    config, arrays, assets = read(save("functional", tmp_path))
    before = {name: array.copy() for name, array in arrays.items()}
    made = build(config)
    model = made.bind(arrays, assets)
    model.fit(np.ones((8, 16)), np.ones((8, 3)), verbose=0)
    model.save(tmp_path / "again.keras")
    for name, array in arrays.items():
        assert array.tobytes() == before[name].tobytes(), name
    again = keras.models.load_model(tmp_path / "again.keras")
    for mine, theirs in zip(model.weights, again.weights, strict=True):
        assert same_bytes(mine.numpy(), theirs.numpy()), mine.path


class Witness:
    """A `Rest` that notes which functions ask it, and wants none."""

    def __init__(self) -> None:
        self.callers: set[str] = set()

    def is_wanted(self) -> bool:
        return True

    def after(self, worked: float) -> float:
        del worked
        self.callers.update(frame.f_code.co_name for frame, _ in traceback.walk_stack(None))
        return 0.0


def test_it_rests_in_what_keras_does_for_every_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, arrays, assets = read(save("functional", tmp_path))
    monkeypatch.setattr(resting, "SPELL", 0.0)
    witness = Witness()
    with resting.resting(witness):
        build(config).bind(arrays, assets)
    by_node = {"_build_map_helper", "map_graph", "_run_through_graph", "has_path"}
    assert by_node <= witness.callers


def test_variables_of_one_shape_share_what_describes_their_handles(tmp_path: Path) -> None:
    path = save("functional", tmp_path)
    config, arrays, assets = read(path)
    first, second = (build(config, compile=False).bind(arrays, assets) for _ in range(2))
    stock = keras.models.load_model(path, compile=False)
    described = set()
    for one, other, whole in zip(first.weights, second.weights, stock.weights, strict=True):
        data = one.value.handle._handle_data
        assert data is other.value.handle._handle_data  # or each would be freed with its variable
        assert data == whole.value.handle._handle_data
        described.add(id(data))
    assert len(described) == len({(one.shape, one.dtype) for one in first.weights})


# Keras' own, for a layer whose weights did not load; stock gives it too.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_misfits_are_all_named(tmp_path: Path) -> None:
    config, arrays, assets = read(save("functional", tmp_path))
    arrays["layers/dense/vars/0"] = aligned(np.zeros((2, 2), "float32"))
    del arrays["layers/dense_1/vars/1"]
    arrays["layers/dense_2/vars/2"] = aligned(np.zeros(1, "float32"))
    made = build(config)
    with pytest.raises(MismatchError) as caught:
        made.bind(arrays, assets)
    message = str(caught.value)
    for part in ("layers/dense/vars/0", "(2, 2)", "(16, 16)", "dense_1/vars/1", "dense_2/vars/2"):
        assert part in message
    assert message.startswith("model.keras: ")


@pytest.mark.parametrize(
    "config", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"a": 1}', b"[" * 9999]
)
def test_a_broken_config_is_corrupt(config: bytes) -> None:
    with pytest.raises(Corrupt, match=r"config\.json"):
        build(config)


def test_a_class_unknown_to_keras_says_how_to_pass_it(tmp_path: Path) -> None:
    config, _, _ = read(save("custom", tmp_path))
    with pytest.raises(FormatError, match=r"Unregistered.*custom_objects="):
        build(config, custom_objects=None)
    with keras.saving.custom_object_scope(CUSTOM_OBJECTS):
        build(config, custom_objects=None)


def test_a_lambda_needs_safe_mode_off(tmp_path: Path) -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2, output_shape=(2,))(inputs))
    model.save(tmp_path / "model.keras")
    config, arrays, assets = read(tmp_path / "model.keras")
    with pytest.raises(Unsafe, match="lambda"):
        build(config)
    made = build(config, safe_mode=False)
    loaded = made.bind(arrays, assets)
    assert loaded(np.ones((1, 2), "float32")).numpy().tolist() == [[2.0, 2.0]]


def test_a_config_that_cannot_be_built_is_left_to_stock(tmp_path: Path) -> None:
    config, _, _ = read(save("sequential", tmp_path))
    broken = json.loads(config)
    broken["config"]["layers"][1]["config"]["units"] = -5
    with pytest.raises(CannotBuildFast, match="building it raised TypeError"):
        build(json.dumps(broken).encode())


def test_stock_errors_are_translated(tmp_path: Path) -> None:
    path = save("sequential", tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    made = ModelBuild(
        uri="model.keras",
        custom_objects=None,
        compile=True,
        safe_mode=True,
        scopes=capture_scopes(),
    )
    with pytest.raises(FormatError, match=r"Keras .* cannot load"):
        made.load_stock(str(path))


def test_the_walk_yields_what_stock_yields(tmp_path: Path) -> None:
    for name in ("subclassed", "nested", "attention", "text"):
        stack = [ZOO[name]()]
        seen: set[int] = set()
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            mine = list(_private._state._walk(item))
            stock = [
                (attribute, child)
                for attribute, child in saving_lib._walk_saveable.__wrapped__(item)
                if isinstance(child, (KerasSaveable, list, dict, tuple))
            ]
            assert [attribute for attribute, _ in mine] == [attribute for attribute, _ in stock]
            stack.extend(child for _, child in mine if isinstance(child, KerasSaveable))


def test_a_failed_self_test_warns_once_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    selftest = sys.modules["asyncload.materialize._private._selftest"]

    def fail() -> None:
        raise AssertionError("initialisers still run")

    monkeypatch.setattr(selftest, "_try_everything", fail)
    selftest.fast_path.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="initialisers still run"):
            assert not selftest.fast_path()
        assert not selftest.fast_path()
    finally:
        selftest.fast_path.cache_clear()
