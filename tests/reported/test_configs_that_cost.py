"""What a config may ask for has limits, which the error says how to lift."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.events import StageStarted
from tests import keras_2
from tests.equality import assert_same_model
from tests.keras_archives import config_of, with_config

Node = dict[str, Any]


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as loader:
        yield loader


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.save(path)
    return path


def layer(class_name: str, module: str = "keras.layers", **config: Any) -> Node:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def metric(class_name: str, **config: Any) -> Node:
    metrics = [layer(class_name, "keras.metrics", **config)]
    return {"compile_config": {"optimizer": "sgd", "loss": "mse", "metrics": metrics}}


def changed(config: Node, **layers: Any) -> Node:
    return {**config, "config": {**config["config"], **layers}}


def too_much(config: Node) -> dict[str, Node]:
    """Small files, once they are compressed, of which none is a model's."""
    first, second = config["config"]["layers"]
    relu = [layer("ReLU", name=f"d{number}") for number in range(100_000)]
    shape = {**first, "config": {**first["config"], "batch_shape": [None] * 1_000_000}}
    activation = {**second, "config": {**second["config"], "activation": [None] * 1_000_000}}
    nested = {**second, "config": {**second["config"], "nonsense": [[1]] * 50_000}}
    for number in range(40):  # each of whose errors would hold the text of all within
        nested = layer("Sequential", "keras", name=f"s{number}", layers=[first, nested])
    vectorization = layer("TextVectorization", ngrams=1 << 31)
    many = 1 << 31
    convolution = layer("BaseConv", "keras.src.layers.convolutional.base_conv", rank=many)
    pooling = layer("BasePooling", "keras.src.layers.pooling.base_pooling", pool_dimensions=many)
    lookup = layer("StringLookup", vocabulary=["a"], num_oov_indices=many)
    weights: Node = {"output_mode": "tf_idf", "vocabulary": [1], "idf_weights": [1.0]}
    padded = layer("IntegerLookup", max_tokens=many, pad_to_max_tokens=True, **weights)
    wide = {**first, "config": {**first["config"], "batch_shape": [None, 1 << 40]}}
    given = layer("Normalization", mean=0.0, variance=1.0, axis=-1)
    adapted = layer("Normalization", axis=-1)
    return {
        "bytes of which": changed(config, layers=[wide, given]),
        "of which": changed(config, layers=[wide, adapted]),
        "values": changed(config, layers=[first, second, *[None] * 1_000_000]),
        "lists": {**config, "beside": [[]] * 1_000_000},
        "objects": {**config, "beside": [{}] * 1_000_000},
        "layers": changed(config, layers=[first, *relu]),
        "batch_shape": changed(config, layers=[shape, second]),
        "activation": changed(config, layers=[first, activation]),
        "depths": nested,
        "num_thresholds": {**config, **metric("AUC", num_thresholds=1 << 31)},
        "num_classes": {**config, **metric("MeanIoU", num_classes=1 << 31)},
        "bytes of variables": {**config, **metric("MeanIoU", num_classes=100_000)},
        "ngrams": changed(config, layers=[first, vectorization]),
        "num_oov_indices": changed(config, layers=[first, lookup]),
        "max_tokens": changed(config, layers=[first, padded]),
        "rank": changed(config, layers=[first, convolution]),
        "pool_dimensions": changed(config, layers=[first, pooling]),
        "indices_or_sections": {**config, "x": layer("Split", indices_or_sections=many)},
        "'num'": {**config, "x": layer("Unstack", num=many)},
        "expression": {**config, "x": {"args": ["(" * 5_000], "kwargs": {}}},
    }


# Python would match these with a name of 30 letters for minutes, with the GIL held.
ENDLESS = (
    "m/(a+)+b",
    "(?:a|a)*b",
    "(a|b|ab)*?c",
    ".*.*.*b",
    r"(.*)\1b",
    r"\1",
    "[a]{1,9}a{9}",
    "a?" * 9,
)
NOT_ENDLESS = ("m/dense", "m/.*", ".*/attention/.*", r"a\.b\*[x-z]+$", "")


def matched_with(pattern: str, config: Node) -> list[Node]:
    """Configs that have Keras match the names of layers and variables with a pattern."""
    first, second = config["config"]["layers"]
    policies = {"default_policy": "float32", "policy_map": {pattern: "float32"}}
    policy = layer("DTypePolicyMap", "keras.dtype_policies", **policies)
    dense = {**second, "config": {**second["config"], "dtype": policy}}
    muon = layer("Muon", "keras.optimizers", learning_rate=0.1, exclude_layers=[pattern])
    compilation = {"optimizer": muon, "loss": "mse"}
    return [changed(config, layers=[first, dense]), {**config, "compile_config": compilation}]


async def test_no_pattern_is_matched_for_ever(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    for pattern in ENDLESS:
        for config in matched_with(pattern, config_of(saved)):
            path = with_config(saved, tmp_path / "m.keras", config)
            with pytest.raises(asyncload.TooLarge, match=r"regular expression.*limits="):
                await loader.load(path)
    for pattern in NOT_ENDLESS:
        config, _ = matched_with(pattern, config_of(saved))
        path = with_config(saved, tmp_path / "m.keras", config)
        mine, stock = await loader.load(path), keras.models.load_model(path)
        assert np.array_equal(mine(np.ones((1, 4))), stock(np.ones((1, 4))))


async def test_what_no_model_asks_for(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    for says, config in too_much(config_of(saved)).items():
        path = with_config(saved, tmp_path / "m.keras", config, compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 400_000
        says = "values" if says in {"lists", "objects", "layers"} else says
        with pytest.raises(asyncload.TooLarge, match=f"{says}.*limits=") as caught:
            await loader.load(path)
        assert caught.value.uri == str(path)


async def test_nor_a_legacy_one(tmp_path: Path, loader: asyncload.Loader) -> None:
    model = changed(keras_2.MODEL, beside=[[]] * 1_000_000)
    metrics = [{"class_name": "AUC", "config": {"num_thresholds": 1 << 31}}]
    training = {**keras_2.TRAINING, "metrics": metrics}
    weights = keras_2.layers()
    for attributes in ({"model_config": model}, {"training": training}):
        path = keras_2.save_model(tmp_path / "m.h5", weights, **attributes)
        with pytest.raises(asyncload.TooLarge, match="limits="):
            await loader.load(path)
    assert await loader.load(path, compile=False)


async def test_limits_are_lifted(saved: Path, tmp_path: Path, loader: asyncload.Loader) -> None:
    few = asyncload.Limits(nodes=10)
    with pytest.raises(asyncload.TooLarge, match=r"limits=asyncload\.Limits\(nodes=\d+\)"):
        await loader.load(saved, limits=few)
    with pytest.raises(asyncload.TooLarge, match=r"CPU time.*limits=asyncload\.Limits\(seconds="):
        await loader.load(saved, limits=asyncload.Limits(seconds=0.0))
    config = {**config_of(saved), **metric("AUC", num_thresholds=200_000)}
    path = with_config(saved, tmp_path / "m.keras", config)
    assert await loader.load(path, limits=None)
    # Each of four variables has a number for each threshold.
    config = {**config_of(saved), **metric("AUC", num_thresholds=50_000)}
    path = with_config(saved, tmp_path / "m.keras", config)
    with pytest.raises(asyncload.TooLarge, match=r"limits=asyncload\.Limits\(state=1_600_"):
        await loader.load(path, limits=asyncload.Limits(state=100_000))
    assert await loader.load(path)


async def test_what_nobody_waits_for_any_more_is_not_made(saved: Path, tmp_path: Path) -> None:
    """Keras makes a graph anew for each layer that is added: minutes, for as many as these."""
    building = asyncio.Event()

    def observe(event: object) -> None:
        if isinstance(event, StageStarted) and event.stage == "build":
            building.set()

    first = config_of(saved)["config"]["layers"][0]
    relu = [layer("ReLU", name=f"d{number}") for number in range(10_000)]
    config = changed(config_of(saved), layers=[first, *relu])
    path = with_config(saved, tmp_path / "m.keras", config)
    async with asyncload.Loader(executor="thread", observer=observe) as loader:
        load = loader.prefetch(path, priority="demand")
        await building.wait()
        await asyncio.sleep(0.5)
        load.cancel()
        assert await loader.load(saved)


async def test_a_vocabulary_of_many_words_as_stock(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    words = [f"word number {number}" for number in range(100_000)] + ["é漢", '"],[\\']
    lookup = keras.layers.StringLookup(vocabulary=words)
    model = keras.Sequential([keras.Input((1,), dtype="string"), lookup])
    path = tmp_path / "m.keras"
    model.save(path)
    mine, stock = await loader.load(path), keras.models.load_model(path)
    assert_same_model(mine, stock)
    asked = tf.constant([["word number 7"], ["é漢"], ['"],[\\'], ["unknown"]])
    assert np.array_equal(mine(asked), stock(asked))
    assert mine.layers[0].get_vocabulary() == stock.layers[0].get_vocabulary()
    mine.save(tmp_path / "again.keras")
    again = config_of(tmp_path / "again.keras")["config"]["layers"][1]["config"]
    assert again["vocabulary"] == words
    config = config_of(path)
    config["config"]["layers"][1]["config"]["vocabulary"] += ["word number 0"]
    with_config(path, path, config)
    with pytest.raises(asyncload.FormatError) as caught:
        await loader.load(path)
    assert "repeated term" in str(caught.value.__cause__)
