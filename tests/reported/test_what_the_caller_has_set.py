"""What Keras and TensorFlow keep by thread reaches the load, and nothing of the program's is used.

All is compared with what stock does in the same scopes, from the same state.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.utils.backend_utils import TFGraphScope

import asyncload
from asyncload import Loader
from asyncload.events import Event, FellBack

Scope = Callable[[], AbstractContextManager[Any]]


@keras.saving.register_keras_serializable("caller")
class Net(keras.Model):
    """A model whose name is automatic."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)
        self.drop = layers.Dropout(0.5)

    def call(self, x: Any) -> Any:
        return self.drop(self.dense(x))

    def get_config(self) -> dict[str, Any]:
        return {}


@keras.saving.register_keras_serializable("caller")
class Scale(layers.Layer):
    """A layer whose dtype is that of the global policy."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(shape[-1],))

    def call(self, x: Any) -> Any:
        return x * self.weight

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable("caller")
class Fussy(layers.Dropout):
    """A layer that only stock can make, after it has drawn a seed."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(shape[-1],))
        assert self.weight._initializer is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models."""
    where = tmp_path_factory.mktemp("models")
    inputs = keras.Input((4,))
    x = layers.BatchNormalization()(Scale()(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.3)(x)))
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    model.save(where / "model.keras")
    model.save(where / "model.h5")
    net = Net()
    net(np.ones((1, 4)))
    net.save(where / "net.keras")
    keras.Sequential([keras.Input((3,)), Fussy(0.5), layers.Dropout(0.5)]).save(
        where / "fussy.keras"
    )
    module = tf.Module()
    module.v = tf.Variable([1.0, 2.0], name="v")
    module.call = tf.function(lambda x: {"y": x * module.v}, [tf.TensorSpec([2], tf.float32)])
    tf.saved_model.save(module, str(where / "saved"), signatures=module.call)
    tf.train.Checkpoint(v=module.v).write(str(where / "ckpt"))
    return where


@contextmanager
def fresh(seed: int = 7) -> Iterator[None]:
    """Begin with the same counters and seeds, and leave none behind."""
    keras.utils.clear_session(free_memory=False)
    random.seed(seed)
    np.random.seed(seed)
    tf.random.set_seed(seed)
    try:
        yield
    finally:
        keras.utils.clear_session(free_memory=False)


def variables(model: Any) -> list[tuple[Any, ...]]:
    """Return all that is to be as stock of a model's variables."""
    optimizer = getattr(model, "optimizer", None)
    every = [*model.variables, *(optimizer.variables if optimizer is not None else ())]
    return [
        (v.path, v.dtype, v.value.name, type(v.value), v.value.device, v.numpy().tobytes())
        for v in every
    ]


def left_behind() -> list[Any]:
    """Return what a load may have moved in the program's state."""
    names = ["net", "layer", "dense", "keras_tensor", "functional", "seed_generator", "optimizer"]
    counts = [keras.backend.get_uid(name) for name in names]
    drawn = random.random(), float(np.random.rand()), tf.random.uniform([]).numpy()
    return [keras.config.dtype_policy().name, *counts, *drawn]


async def load(path: Path, into: list[str] | None = None, **options: Any) -> Any:
    """Load, and note why it fell back, if it did."""

    def observe(event: Event) -> None:
        if isinstance(event, FellBack) and into is not None:
            into.append(event.reason)

    async with Loader(executor="thread", observer=observe) as loader:
        return await loader.load(path, **options)


async def both(path: Path, scope: Scope, reasons: list[str] | None = None) -> tuple[Any, Any]:
    """Return what stock makes of a file in a scope, and what asyncload does."""
    results = []
    for make in (_stock, load):
        with fresh(), scope():
            model: Any = _stock(path) if make is _stock else await load(path, reasons)
            results.append((variables(model), model.name, left_behind()))
    return results[0], results[1]


def _stock(path: Path) -> Any:
    return keras.models.load_model(path)


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Set the global dtype policy of this thread."""
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


SCOPES: dict[str, Scope] = {
    "none": nullcontext,
    "policy": lambda: dtype_policy("bfloat16"),
    "mixed": lambda: dtype_policy("mixed_bfloat16"),
    "tf.name_scope": lambda: tf.name_scope("outer"),
    "keras.name_scope": lambda: keras.name_scope("outer"),
    "tf.device": lambda: tf.device("CPU:0"),
    "keras.device": lambda: keras.device("cpu:0"),
    "variable_scope": lambda: tf.compat.v1.variable_scope("outer"),
    "RematScope": lambda: keras.RematScope(mode="activations"),
}
STOCK_ONLY: dict[str, tuple[Scope, str]] = {
    "OneDeviceStrategy": (lambda: tf.distribute.OneDeviceStrategy("CPU:0").scope(), "distribute"),
    "MirroredStrategy": (lambda: tf.distribute.MirroredStrategy(["CPU:0"]).scope(), "distribute"),
    "variable_creator_scope": (
        lambda: tf.variable_creator_scope(lambda following, **kw: following(**kw)),
        "variable_creator_scope",
    ),
}


@pytest.mark.either_loop
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "net.keras"])
async def test_scopes_reach_the_fast_path(folder: Path, name: str, scope: str) -> None:
    """Variables, names, seeds, counters: all as stock."""
    reasons: list[str] = []
    stock, ours = await both(folder / name, SCOPES[scope], reasons)
    assert ours == stock
    assert reasons == []


@pytest.mark.either_loop
async def test_a_scope_that_was_left_is_none(folder: Path) -> None:
    """A program that used a FeatureSpace once has left such a scope."""
    reasons: list[str] = []
    with fresh():
        with TFGraphScope():
            pass
        await load(folder / "model.keras", reasons)
    assert reasons == []


@pytest.mark.either_loop
@pytest.mark.parametrize("scope", STOCK_ONLY)
async def test_in_other_scopes_stock_loads(folder: Path, scope: str) -> None:
    """Stock loads in the caller's scope, and the load says why."""
    enter, word = STOCK_ONLY[scope]
    reasons: list[str] = []
    stock, ours = await both(folder / "net.keras", enter, reasons)
    assert ours == stock
    assert len(reasons) == 1
    assert word in reasons[0]


async def test_a_model_of_a_strategy_can_be_trained(folder: Path) -> None:
    """Its variables are the strategy's."""
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = await load(folder / "model.keras")
        assert "Mirrored" in type(model.layers[1].weight.value).__name__
        model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)


async def test_saved_models_in_a_strategy(folder: Path) -> None:
    """Both ways to load one make the variables that stock makes."""
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        stock = tf.saved_model.load(str(folder / "saved"))
        reasons: list[str] = []
        whole = await load(folder / "saved", reasons, whole=True)
        served = await load(folder / "saved", reasons)
    assert type(whole.v) is type(stock.v)
    assert served(np.array([3.0, 4.0], "f4"))["y"].numpy().tolist() == [3.0, 8.0]
    assert all("distribute" in reason for reason in reasons)
    assert len(reasons) == 2


async def test_checkpoints_into_variables_of_a_strategy(folder: Path) -> None:
    """A MirroredVariable gets its value."""
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        target = tf.train.Checkpoint(v=tf.Variable([0.0, 0.0]))
        async with Loader(executor="thread") as loader:
            await loader.load_into(target, folder / "ckpt")
    assert target.v.numpy().tolist() == [1.0, 2.0]


async def test_graphs_are_left_to_stock(folder: Path) -> None:
    """Within a tf.Graph a SavedModel is loaded into that graph."""
    graph = tf.Graph()
    reasons: list[str] = []
    with graph.as_default():
        whole = await load(folder / "saved", reasons, whole=True)
    assert "tf.Graph" in reasons[0]
    assert whole.v.handle.graph is graph


async def test_automatic_names_are_used_once(folder: Path) -> None:
    """Two loads are two names, and what the program makes next has a third."""
    with fresh():
        first, second = await load(folder / "net.keras"), await load(folder / "net.keras")
        assert [first.name, second.name, Net().name] == ["net", "net_1", "net_2"]


async def test_what_fell_back_uses_nothing_twice(folder: Path) -> None:
    """The attempt that failed gives its names and seeds to stock."""
    reasons: list[str] = []
    stock, ours = await both(folder / "fussy.keras", nullcontext, reasons)
    assert ours == stock
    assert len(reasons) == 1


FIRST = """
import asyncio, os, random, sys
import numpy as np, keras, tensorflow as tf
import asyncload

async def main():
    async with asyncload.Loader(executor="thread") as loader:
        await loader.load("saved")
        await loader.load("saved", whole=True)
        await loader.load_into(tf.train.Checkpoint(v=tf.Variable([0.0, 0.0])), "ckpt")
        return await loader.load("dropout.h5"), await loader.load("dropout.keras")

random.seed(7), np.random.seed(7), tf.random.set_seed(7)
for model in asyncio.run(main()):
    print(model.layers[0].seed_generator.state.numpy().tolist())
print(random.random(), np.random.rand(), float(tf.random.uniform([])))
"""


def test_the_first_loads_of_a_program(folder: Path) -> None:
    """Self-tests draw nothing: seeds, and what the program draws next, are as with stock."""
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5)])
    printed = []
    for suffix in (".h5", ".keras"):
        model.save(folder / f"dropout{suffix}")
    with fresh():
        for suffix in (".h5", ".keras"):
            state = _stock(folder / f"dropout{suffix}").layers[0].seed_generator.state
            printed.append(str(state.numpy().tolist()))
        numbers = random.random(), np.random.rand(), float(tf.random.uniform([]))
        printed.append(" ".join(map(str, numbers)))
    call = [sys.executable, "-c", FIRST]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == printed


async def test_unsafe_deserialization_of_the_caller(tmp_path: Path) -> None:
    """What the program allows for this thread, the load allows."""
    model = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    model.save(tmp_path / "m.h5")
    with pytest.raises(asyncload.errors.Unsafe):
        await load(tmp_path / "m.keras")
    with fresh():
        keras.config.enable_unsafe_deserialization()
        loaded = await load(tmp_path / "m.keras")
        with pytest.raises(ValueError, match="safe_mode=False"):
            keras.models.load_model(tmp_path / "m.h5")
        with pytest.raises(asyncload.errors.Unsafe, match="safe_mode=False"):
            await load(tmp_path / "m.h5")
    assert loaded(np.ones((1, 2), "f4")).numpy().tolist() == [[2.0, 2.0]]


async def test_loads_in_other_scopes_are_not_shared(folder: Path) -> None:
    """One load each for two policies, one for the same."""
    async with Loader(executor="thread") as loader:
        plain = loader.prefetch(folder / "model.keras", priority="demand")
        with dtype_policy("bfloat16"):
            other = loader.prefetch(folder / "model.keras", priority="demand")
        again = loader.prefetch(folder / "model.keras", priority="demand")
        models = [await plain, await other, await again]
    assert models[0] is models[2]
    assert models[0] is not models[1]
    assert models[1].layers[1].weight.dtype == "bfloat16"
