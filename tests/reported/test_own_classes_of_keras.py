"""Whatever Keras itself defines for models is a part of a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.legacy.layers import AlphaDropout, RandomHeight, RandomWidth, ThresholdedReLU
from keras.src.saving.keras_saveable import KerasSaveable

import asyncload
from tests.equality import assert_same_model
from tests.keras_archives import config_of, with_config

# What runs code, and what only the program can make: bases, and parts of the compilation.
REFUSED = {"TFSMLayer", "TorchModuleWrapper"}


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as loader:
        yield loader


def dense(*more: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), *more])


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    found: list[type[Any]] = kind.__subclasses__()
    for each in found:
        yield each
        yield from subclasses(each)


async def test_every_class_that_keras_saves(loader: asyncload.Loader, tmp_path: Path) -> None:
    """All of them stand in a config beside what Keras reads of it."""
    own = [each for each in subclasses(KerasSaveable) if each.__module__.startswith("keras.")]
    exported = [each for each in own if each.__name__ not in REFUSED]
    assert len(exported) > 500
    nodes: list[dict[str, Any]] = [
        {"module": each.__module__, "class_name": each.__name__, "config": {}, "registered_name": n}
        for each in exported
        for n in (None, each.__name__)
    ]
    for node in nodes:
        if node["class_name"] == "Lambda":
            node["config"] = {"function": "mean"}
    dense().save(tmp_path / "saved.keras")
    config = config_of(tmp_path / "saved.keras")
    config["config"]["beside"] = nodes
    with_config(tmp_path / "saved.keras", tmp_path / "m.keras", config)
    keras.models.load_model(tmp_path / "m.keras")
    with pytest.raises(asyncload.FormatError, match=r"not part of Keras: mean\.") as caught:
        await loader.load(tmp_path / "m.keras")  # all but the function, which nobody registered
    assert "keras" not in str(caught.value).split("not part of Keras: ")[1].split("Pass")[0]


def convnext() -> Any:
    return ConvNeXt([1] * 4, [4] * 4, weights=None, input_shape=(32, 32, 3), classes=3, name="c")


def scaled() -> Any:
    first, second = keras.Input((4,)), keras.Input((4,))
    return keras.Model([first, second], CustomScaleLayer(scale=0.2)([first, second]))


def old_layers() -> Any:
    rows = [keras.Input((8, 8, 3)), RandomHeight(0.1), RandomWidth(0.1)]
    return keras.Sequential([*rows, ThresholdedReLU(0.3), AlphaDropout(0.2)])


def attention() -> Any:
    rows = keras.Input((5, 8))
    return keras.Model(rows, keras.layers.GroupQueryAttention(4, 2, 1)(rows, rows))


def multiplied() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.ops.relu(keras.ops.multiply(inputs, 2.0)))


@pytest.mark.parametrize("kind", [".keras", ".h5"])
@pytest.mark.parametrize("make", [convnext, scaled, old_layers, attention, multiplied])
async def test_models_of_own_classes_as_stock(
    make: Callable[[], Any], kind: str, loader: asyncload.Loader, tmp_path: Path
) -> None:
    path = tmp_path / f"m{kind}"
    make().save(path)
    try:
        stock = keras.models.load_model(path)
    except ValueError as error:  # it knows the class by no name that is in the file
        missing = str(error).split("'")[1]
        with pytest.raises(asyncload.FormatError, match=missing):
            await loader.load(path)
        return
    assert_same_model(await loader.load(path), stock)


async def test_a_feature_space_as_stock(loader: asyncload.Loader, tmp_path: Path) -> None:
    columns = {"a": np.random.default_rng(0).random(8).astype("f4"), "b": np.array(["x", "y"] * 4)}
    columns["c"] = np.arange(8)
    features = {"a": "float_normalized", "b": "string_categorical", "c": "integer_categorical"}
    space = keras.utils.FeatureSpace(
        features, crosses=[("b", "c")], crossing_dim=4, output_mode="concat"
    )
    space.adapt(tf.data.Dataset.from_tensor_slices(columns).batch(4))
    space.save(tmp_path / "m.keras")
    loaded = await loader.load(tmp_path / "m.keras")
    assert np.array_equal(loaded(columns), space(columns))


async def test_a_distiller_as_stock(loader: asyncload.Loader, tmp_path: Path) -> None:
    losses = [keras.distillation.LogitsDistillation(temperature=2.0)]
    distiller = keras.distillation.Distiller(
        teacher=dense(), student=dense(), distillation_losses=losses
    )
    distiller(np.ones((4, 4)))
    distiller.save(tmp_path / "m.keras")
    stock = keras.models.load_model(tmp_path / "m.keras")
    assert_same_model(await loader.load(tmp_path / "m.keras"), stock)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
async def test_what_a_model_is_compiled_with_is_not_looked_at_without_compiling(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    class Mine(keras.metrics.Mean):
        pass

    def shift(x: Any) -> Any:
        return x - 1

    path, model = tmp_path / "m.keras", dense()
    model.compile("sgd", lambda y, x: x - y, metrics=[Mine()])
    model.save(path)
    stock = keras.models.load_model(path, compile=False)
    assert_same_model(await loader.load(path, compile=False), stock)
    with pytest.raises(asyncload.Unsafe, match=r"lambda.*compile=False"):
        await loader.load(path)
    model = dense(keras.layers.Dense(2, activation=shift))
    model.compile("sgd", shift, metrics=[Mine()])
    model.save(path)
    with pytest.raises(asyncload.FormatError, match=r"shift, .*Mine\. .*compile=False.*Mine"):
        await loader.load(path)
    model = await loader.load(path, custom_objects={"shift": shift, "Mine": Mine})
    assert model.layers[-1].activation is shift
