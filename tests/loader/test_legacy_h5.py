"""Legacy HDF5 models through the whole house: what Keras' own legacy loader makes of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import asyncload
from asyncload import AsyncloadError, Corrupt, FormatError, MismatchError, Unsafe
from asyncload.events import Event, FellBack, Indexed, StageStarted
from asyncload.materialize import _private
from tests import keras_2
from tests.equality import assert_same_model, same_bytes
from tests.zoo import CUSTOM_OBJECTS, ZOO, Subclassed

SOON = 1.0  # seconds
# What Keras 3.15 writes and reads again; the rest of the zoo it cannot read.
GOOD = (
    "deferred_sequential",
    "shared_layer",
    "many_inputs_and_outputs",
    "convolutional",
    "preprocessing",
    "int4",
    "custom",
)


def compiled() -> Any:
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="inner")
    inner.layers[0].trainable = False
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(inner(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(4)(x)))
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
        keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.MeanAbsoluteError()],
    )
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(5)
    return model


class Watched(asyncload.Loader):
    """A Loader that keeps what it reports."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        super().__init__(executor="thread", observer=self.events.append)

    def fell_back(self) -> bool:
        return any(isinstance(event, FellBack) for event in self.events)


@pytest.fixture
async def loader() -> AsyncIterator[Watched]:
    async with Watched() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the zoo."""
    where = tmp_path_factory.mktemp("legacy")
    for name in (*GOOD, "attention", "float8", "sequential", "subclassed"):
        ZOO[name]().save(where / f"{name}.h5")
    compiled().save(where / "compiled.h5")
    return where


async def same_as_stock(loader: Watched, path: Path, **options: Any) -> Any:
    """Load a model both ways, compare, and return ours."""
    stock = keras.models.load_model(path, **options)
    model = await loader.load(path, **options)
    assert_same_model(model, stock)
    assert not loader.fell_back()
    return model


# --- models of Keras 3 -----------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.either_loop
async def test_a_model_equals_stock(name: str, folder: Path, loader: Watched) -> None:
    await same_as_stock(loader, folder / f"{name}.h5", custom_objects=CUSTOM_OBJECTS)


@pytest.mark.parametrize(("name", "kind"), [("attention", FormatError), ("float8", MismatchError)])
async def test_what_keras_cannot_load(
    name: str, kind: type[Exception], folder: Path, loader: Watched
) -> None:
    with pytest.raises((ValueError, TypeError)):
        keras.models.load_model(folder / f"{name}.h5")
    with pytest.raises(kind, match=f"{name}.h5"):
        await loader.load(folder / f"{name}.h5")


@pytest.mark.parametrize("compile", [True, False])
async def test_a_compiled_model_equals_stock(
    compile: bool, tmp_path: Path, loader: Watched
) -> None:
    compiled().save(tmp_path / "m.h5")
    model = await same_as_stock(loader, tmp_path / "m.h5", compile=compile)
    assert model.compiled == compile
    if compile:
        assert model.optimizer.iterations.numpy() == 5
    indexed = next(event for event in loader.events if isinstance(event, Indexed))
    assert (indexed.tensors > 10) == compile  # the optimizer's state is not read for nothing


async def test_a_model_with_a_loss_by_name_as_stock(folder: Path, loader: Watched) -> None:
    path = folder / "sequential.h5"
    with pytest.raises(ValueError, match=r"keras\.metrics\.mse"):
        keras.models.load_model(path)
    with pytest.raises(FormatError, match=r"keras\.metrics\.mse.*compile=False"):
        await loader.load(path)
    loader.events.clear()
    await same_as_stock(loader, path, compile=False)


async def test_bfloat16_which_stock_cannot_load(tmp_path: Path, loader: Watched) -> None:
    saved = ZOO["bfloat16"]()
    saved.save(tmp_path / "m.h5")
    model = await loader.load(tmp_path / "m.h5")
    assert {variable.dtype for variable in model.weights} == {
        "bfloat16", "float16", "float32", "float64",
    }  # fmt: skip
    for mine, before in zip(model.weights, saved.weights, strict=True):
        assert same_bytes(mine.numpy(), before.numpy())


async def test_a_subclassed_model_is_not_built_as_in_stock(folder: Path, loader: Watched) -> None:
    options: dict[str, Any] = {"custom_objects": {"Subclassed": Subclassed}, "compile": False}
    with pytest.raises(ValueError, match="mismatch"):
        keras.models.load_model(folder / "subclassed.h5", **options)
    with pytest.raises(MismatchError, match="layers with weights"):
        await loader.load(folder / "subclassed.h5", **options)


async def test_no_value_is_copied(folder: Path, loader: Watched) -> None:
    weights = await loader.load_weights(folder / "convolutional.h5")
    model = await loader.load(folder / "convolutional.h5")
    assert weights.manifest.format == "keras-h5"
    assert len(weights) == len(model.weights)
    kernel = model.layers[1].weights[0].value.read_value()
    assert np.asarray(memoryview(kernel)).ctypes.data % 64 == 0


async def test_the_build_begins_before_the_index_ends(folder: Path, loader: Watched) -> None:
    await loader.load(folder / "convolutional.h5")
    kinds = [
        "build" if isinstance(event, StageStarted) and event.stage == "build" else type(event)
        for event in loader.events
    ]
    assert kinds.index("build") < kinds.index(Indexed)


async def test_without_the_fast_path(
    folder: Path, loader: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_private, "fast_path", lambda: False)
    content = (folder / "int4.h5").read_bytes()
    model = await loader.load(folder / "int4.h5")
    assert_same_model(model, keras.models.load_model(folder / "int4.h5"))
    assert loader.fell_back()
    assert (folder / "int4.h5").read_bytes() == content


async def test_under_another_name(folder: Path, tmp_path: Path, loader: Watched) -> None:
    (tmp_path / "model").write_bytes((folder / "shared_layer.h5").read_bytes())
    model = await loader.load(tmp_path / "model")
    assert_same_model(model, keras.models.load_model(folder / "shared_layer.h5"))


async def test_weights_alone_are_weights(tmp_path: Path, loader: Watched) -> None:
    keras_2.save_weights(tmp_path / "w.h5", keras_2.layers())
    weights = await loader.load(tmp_path / "w.h5")
    assert isinstance(weights, asyncload.Weights)
    assert same_bytes(weights["dense/dense/kernel:0"], keras_2.layers()["dense"]["dense/kernel:0"])


# --- models of Keras 2 -----------------------------------------------------------------------


async def test_a_keras_2_model_equals_stock(tmp_path: Path, loader: Watched) -> None:
    weights = keras_2.layers()
    model = await same_as_stock(loader, keras_2.save_model(tmp_path / "m.h5", weights))
    norm = model.get_layer("norm")
    assert same_bytes(norm.gamma.numpy(), weights["norm"]["norm/gamma:0"])
    assert same_bytes(norm.moving_variance.numpy(), weights["norm"]["norm/moving_variance:0"])
    assert not model.compiled


async def test_a_compiled_keras_2_model_equals_stock(tmp_path: Path, loader: Watched) -> None:
    path = keras_2.save_model(tmp_path / "m.h5", keras_2.layers(), training=keras_2.TRAINING)
    model = await same_as_stock(loader, path)
    assert model.optimizer.iterations.numpy() == 7
    assert float(model.optimizer.learning_rate) == 0.5


async def test_weights_by_position_trainable_ones_first(tmp_path: Path, loader: Watched) -> None:
    """A frozen layer's weights come after those of the layers around it, in a nested model."""
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), keras.layers.BatchNormalization()], name="inner"
    )
    inner.layers[0].trainable = False
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])
    for number, variable in enumerate(model.weights):
        variable.assign(np.full(variable.shape, number))
    model.save(tmp_path / "m.h5")
    found = await same_as_stock(loader, tmp_path / "m.h5")
    for number, variable in enumerate(found.weights):
        assert (variable.numpy() == number).all()


async def test_more_layers_than_an_attribute_takes(tmp_path: Path, loader: Watched) -> None:
    inputs = keras.Input((1,))
    x = inputs
    for number in range(70):
        name = f"{number:02}_{'long_' * 200}"
        x = (
            keras.layers.Rescaling(2.0, name=name)(x)
            if number % 20
            else keras.layers.Dense(1, name=name)(x)
        )
    weights = {
        layer.name: {f"{weight.path}:0": weight.numpy() for weight in layer.weights}
        for layer in keras.Model(inputs, x).layers
    }
    model = keras.Model(inputs, x)
    path = tmp_path / "m.h5"
    config = {"class_name": "Functional", "config": model.get_config()}
    keras_2.save_model(path, weights, model_config=json.dumps(config))
    with h5py.File(path) as file:
        assert "layer_names1" in file["model_weights"].attrs
    found = await same_as_stock(loader, path)
    for mine, before in zip(found.weights, model.weights, strict=True):
        assert same_bytes(mine.numpy(), before.numpy())


# --- what a file should not hold -------------------------------------------------------------


async def fails(
    loader: Watched, path: Path, *kinds: type[Exception], says: str | None = None, **options: Any
) -> AsyncloadError:
    begin = time.perf_counter()
    with pytest.raises(kinds, match=says) as caught:
        await loader.load(path, **options)
    assert time.perf_counter() - begin < SOON
    assert isinstance(caught.value, AsyncloadError)
    assert os.path.basename(path) in str(caught.value)
    assert loader._resources.budget.held == 0
    return caught.value


def with_layer(layer: dict[str, Any]) -> dict[str, Any]:
    nodes = {**layer, "name": layer["config"]["name"], "inbound_nodes": [[["norm", 0, 0, {}]]]}
    config = keras_2.MODEL["config"]
    return {**keras_2.MODEL, "config": {**config, "layers": [*config["layers"], nodes]}}


UNSAFE: list[tuple[str, dict[str, Any]]] = [
    ("Lambda", {"class_name": "Lambda", "config": {"name": "x", "function": ["4wEA", None, None]}}),
    ("TFSMLayer", {"class_name": "TFSMLayer", "config": {"name": "x", "filepath": "/tmp/m"}}),
    ("TorchModuleWrapper", {"class_name": "TorchModuleWrapper", "config": {"name": "x"}}),
    (
        "StringLookup",
        {"class_name": "StringLookup", "config": {"name": "x", "vocabulary": "/etc/passwd"}},
    ),
    (
        "keras.utils",
        {"class_name": "get_file", "module": "keras.utils", "config": {"name": "x"}},
    ),
    (
        "TypeSpec",
        {"class_name": "Dense", "config": {"name": "x", "s": {"class_name": "TypeSpec"}}},
    ),
]


async def test_configs_that_could_run_code(tmp_path: Path, loader: Watched) -> None:
    for says, layer in UNSAFE:
        path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=with_layer(layer))
        error = await fails(loader, path, Unsafe, says=says)
        assert "safe_mode=False" in str(error)


async def test_names_that_are_no_classes_of_models(tmp_path: Path, loader: Watched) -> None:
    """The legacy loader would find functions and modules by some of these names."""
    for name in ("deserialize", "serialize", "activations"):
        layer = {"class_name": name, "config": {"name": "x"}}
        path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=with_layer(layer))
        await fails(loader, path, Unsafe, says=f"{name}, which is no part of a model")


async def test_classes_and_functions_that_nobody_registered(
    tmp_path: Path, loader: Watched
) -> None:
    function = {"class_name": "Lambda", "config": {"name": "x", "function": "system"}}
    layers: dict[str, dict[str, Any]] = {
        "system": function,
        "Mine": {"class_name": "Mine", "config": {"name": "x"}},
        "TFOpLambda": {"class_name": "TFOpLambda", "config": {"name": "x"}},
    }
    for name, layer in layers.items():
        path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=with_layer(layer))
        says = f"not part of Keras: {name}.*custom_objects"
        await fails(loader, path, FormatError, says=says)


async def test_training_that_could_run_code(tmp_path: Path, loader: Watched) -> None:
    training = {**keras_2.TRAINING, "loss": {"class_name": "Mine", "config": {}}}
    path = keras_2.save_model(tmp_path / "m.h5", keras_2.layers(), training=training)
    await fails(loader, path, FormatError, says=r"Mine.*compile=False")
    assert await loader.load(path, compile=False)


async def test_a_lambda_is_loaded_by_whoever_trusts_it(tmp_path: Path, loader: Watched) -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2, output_shape=(2,))(inputs))
    model.save(tmp_path / "m.h5")
    await fails(loader, tmp_path / "m.h5", Unsafe, says="lambda")
    trusted = await loader.load(tmp_path / "m.h5", safe_mode=False)
    assert (np.asarray(trusted(np.ones((1, 2)))) == 2).all()


async def test_truncated_at_every_tenth(folder: Path, tmp_path: Path, loader: Watched) -> None:
    whole = (folder / "shared_layer.h5").read_bytes()
    for tenth in range(10):
        path = tmp_path / f"{tenth}.h5"
        path.write_bytes(whole[: len(whole) * tenth // 10])
        await fails(loader, path, FormatError)


async def test_configs_that_are_none(tmp_path: Path, loader: Watched) -> None:
    path = keras_2.save_model(tmp_path / "m.h5", {})
    for config in (b" ", b"{", b"[1]", b"3", b'{"config": {}}', b"\xff", b"[" * 10_000):
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = np.bytes_(config)
        await fails(loader, path, Corrupt, says="model_config")


async def test_a_config_nested_too_deep(tmp_path: Path, loader: Watched) -> None:
    config: Any = {"class_name": "Sequential", "config": {"layers": []}}
    for _ in range(300):
        config = {"class_name": "Sequential", "config": {"layers": [config]}}
    path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=config)
    await fails(loader, path, Corrupt, says="nested deeper")


def _wrong_shape(weights: dict[str, dict[str, Any]]) -> None:
    weights["out"]["out/bias:0"] = np.ones(5, "f4")
    weights["norm"]["norm/beta:0"] = np.ones((2, 2), "f4")


def _one_less(weights: dict[str, dict[str, Any]]) -> None:
    del weights["out"]["out/bias:0"]


def _layer_less(weights: dict[str, dict[str, Any]]) -> None:
    del weights["dense"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_wrong_shape, r"2 variables|norm/beta:0.*\(4,\).*\n.*out/bias:0.*\(2,\).*\(5,\)"),
        (_one_less, "out has 2 weights, the file has 1"),
        (_layer_less, "has 4 layers with weights, the file has 3; only in the model: dense"),
    ],
)
async def test_weights_of_another_model(
    change: Callable[[Any], None], says: str, tmp_path: Path, loader: Watched
) -> None:
    weights = {name: dict(values) for name, values in keras_2.layers().items()}
    change(weights)
    path = keras_2.save_model(tmp_path / "m.h5", weights)
    with pytest.raises(ValueError, match="mismatch"):
        keras.models.load_model(path)
    await fails(loader, path, MismatchError, says=says)
