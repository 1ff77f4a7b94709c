"""The first call, made before a model is handed over."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.events import FellBack, StageEnded
from tests.materialize.warmups import write_requests
from tests.zoo import save


class Counting(tf.Module):
    """Counts its calls and keeps what it was called with last: a warm-up leaves its trace."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0)
        self.last = tf.Variable([0.0], shape=[None])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def call(self, x: Any) -> Any:
        self.last.assign(x)
        return self.calls.assign_add(1)

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def state(self) -> Any:
        return {"calls": self.calls.read_value(), "last": self.last.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image")])  # type: ignore[untyped-decorator]
    def decode(self, image: Any) -> Any:
        return tf.io.decode_png(image[0]), self.calls.assign_add(100)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, path = Counting(), tmp_path_factory.mktemp("saved") / "counting"
    signatures = {"serving_default": module.call, "state": module.state}
    tf.saved_model.save(module, path, signatures=signatures)
    return path


@pytest.fixture
def counting(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "counting"))


async def warned(load: asyncload.Load[Any]) -> list[str]:
    return [event.reason async for event in load.events() if isinstance(event, FellBack)]


def state(served: asyncload.Signatures) -> tuple[int, list[float]]:
    found = served["state"]()
    return int(found["calls"]), found["last"].numpy().tolist()


@pytest.mark.parametrize("warmup", [None, False])
async def test_not_asked_for(warmup: Any, counting: Path, loader: asyncload.Loader) -> None:
    load = loader.prefetch(counting, warmup=warmup)
    assert state(await load) == (0, [0.0])
    stages = [event.stage async for event in load.events() if isinstance(event, StageEnded)]
    assert "warm-up" not in stages


async def test_zeros_of_the_right_shape(counting: Path, loader: asyncload.Loader) -> None:
    load = loader.prefetch(counting, warmup=True)
    assert state(await load) == (1, [0.0])
    assert await warned(load) == []


@pytest.mark.parametrize(
    "inputs",
    [
        {"serving_default": {"x": [1.0, 2.0]}},
        {"x": np.array([1.0, 2.0], "float32")},
        np.array([1.0, 2.0], "float32"),
        [1.0, 2.0],
    ],
)
async def test_inputs_of_the_callers(inputs: Any, counting: Path, loader: asyncload.Loader) -> None:
    assert state(await loader.load(counting, warmup=inputs)) == (1, [1.0, 2.0])


async def test_inputs_of_the_callers_that_do_not_fit(
    counting: Path, loader: asyncload.Loader
) -> None:
    with pytest.raises(TypeError, match="takes x"):
        await loader.load(counting, warmup={"y": [1.0]})
    with pytest.raises(ValueError, match="shape"):
        await loader.load(counting, warmup={"x": [[1.0]]})


async def test_saved_requests_are_replayed(counting: Path, loader: asyncload.Loader) -> None:
    requests = [
        ("serving_default", {"x": np.array([3.0, 4.0], "float32")}),
        ("", {"x": np.array([5.0], "float32")}),
        ("gone", {"x": np.array([6.0], "float32")}),
    ]
    write_requests(counting, requests)
    assert state(await loader.load(counting, warmup=True)) == (2, [5.0])
    assert state(await loader.load(counting)) == (0, [0.0])


@pytest.mark.parametrize("at", [3, 9, 20, -2])
async def test_damaged_requests(at: int, counting: Path, loader: asyncload.Loader) -> None:
    path = write_requests(counting, [("", {"x": np.array([3.0], "float32")})])
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(asyncload.Corrupt, match="warm-up requests"):
        await loader.load(counting, warmup=True)
    path.write_bytes(content[:-10])
    with pytest.raises(asyncload.Corrupt, match="warm-up requests"):
        await loader.load(counting, warmup=True)
    assert state(await loader.load(counting)) == (0, [0.0])


async def test_zeros_that_do_not_do(tmp_path: Path, loader: asyncload.Loader) -> None:
    module = Counting()
    tf.saved_model.save(module, tmp_path / "m", signatures=module.decode)
    load = loader.prefetch(tmp_path / "m", warmup=True)
    assert list(await load) == ["serving_default"]
    (reason,) = await warned(load)
    assert "does not take zeros" in reason
    assert "warmup=" in reason


@pytest.mark.parametrize(("name", "width"), [("functional", 16), ("sequential", 8)])
async def test_a_keras_model(
    name: str, width: int, tmp_path: Path, loader: asyncload.Loader
) -> None:
    path = save(name, tmp_path)
    x = np.random.default_rng(1).random((2, width), "float32")
    stock = keras.models.load_model(path)
    for warmup in (True, x):
        model = await loader.load(path, warmup=warmup)
        assert model.predict_function is not None
        assert model.predict(x, verbose=0).tobytes() == stock.predict(x, verbose=0).tobytes()


async def test_a_keras_model_that_does_not_say_what_it_takes(
    tmp_path: Path, loader: asyncload.Loader
) -> None:
    from tests.zoo import CUSTOM_OBJECTS

    path = save("subclassed", tmp_path)
    load = loader.prefetch(path, custom_objects=CUSTOM_OBJECTS, warmup=True)
    await load
    assert any("does not say what it takes" in reason for reason in await warned(load))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = keras.layers
    inputs = x = keras.Input((8, 8, 4))
    for _ in range(12):
        x = layers.Activation("swish")(layers.BatchNormalization()(layers.Conv2D(4, 1)(x)))
    path = tmp_path_factory.mktemp("deep") / "model"
    keras.Model(inputs, x).export(path, verbose=False)
    return path


async def test_the_first_request_is_as_fast_as_the_next(
    deep: Path, loader: asyncload.Loader
) -> None:
    image = np.ones((1, 8, 8, 4), "float32")

    def first_call(served: asyncload.Signatures) -> float:
        begin = time.perf_counter()
        served["serving_default"](image)
        return time.perf_counter() - begin

    cold = first_call(await loader.load(deep))
    warm = first_call(await loader.load(deep, warmup=True))
    assert warm < cold / 4
