"""Files that Keras 2 wrote load as with stock, or the error says who wrote them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import asyncload
from tests.keras_archives import config_of, with_config


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as loader:
        yield loader


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    for kind in (".keras", ".h5"):
        model.save(folder / f"m{kind}")
    return folder


def optimizer(name: str, **config: Any) -> dict[str, Any]:
    """As tf_keras 2.15 writes those that it registers, with names of its own."""
    common = {"name": name, "jit_compile": False, "is_legacy_optimizer": False}
    return {"class_name": f"Custom>{name}", "config": {**common, "learning_rate": 0.001, **config}}


def trained(saved: Path, path: Path, **changes: Any) -> Path:
    """Write a model that Keras 2 compiled, with the state of its optimizer."""
    training = {
        "loss": "sparse_categorical_crossentropy",
        "metrics": [
            {"class_name": "MeanMetricWrapper", "config": {"name": "accuracy", "fn": "acc"}}
        ],
        "weighted_metrics": None,
        "loss_weights": None,
        "optimizer_config": optimizer("Adam"),
    }
    path.write_bytes((saved / "m.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["training_config"] = json.dumps({**training, **changes})
        state = file.create_group("optimizer_weights")
        state["iteration:0"] = np.int64(7)
        state["learning_rate:0"] = np.float32(0.5)
        state.attrs["weight_names"] = [b"iteration:0", b"learning_rate:0"]
    return path


OPTIMIZERS = [
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lion",
    "Nadam",
    "RMSprop",
    "SGD",
]


async def test_optimizers_that_are_named_custom(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    for name in OPTIMIZERS:
        path = trained(saved, tmp_path / f"{name}.h5", optimizer_config=optimizer(name))
        stock, model = keras.models.load_model(path), await loader.load(path)
        assert type(model.optimizer) is type(stock.optimizer)
        assert type(model.optimizer).__name__ == name
        assert [v.numpy() for v in model.optimizer.variables] == [
            v.numpy() for v in stock.optimizer.variables
        ]


async def test_what_nobody_registered(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    for changes in (
        {"optimizer_config": optimizer("Mine")},
        {"loss": {"class_name": "Mine", "config": {"name": "mine"}}},
        {"loss": "Mine"},
    ):
        path = trained(saved, tmp_path / "m.h5", **changes)
        with pytest.raises(Exception, match=r"Mine|mine|string indices"):
            keras.models.load_model(path)
        with pytest.raises(asyncload.FormatError, match=r"Mine.*compile=False"):
            await loader.load(path)
        assert await loader.load(path, compile=False)


async def test_metrics_that_nobody_registered_are_looked_for_later(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    metric = {"class_name": "Custom>Mine", "config": {"name": "mine"}}
    path = trained(saved, tmp_path / "m.h5", metrics=[metric])
    stock, model = keras.models.load_model(path), await loader.load(path)
    assert type(model.optimizer) is type(stock.optimizer)
    for each in (stock, model):
        with pytest.raises(ValueError, match="Custom>Mine"):
            each.evaluate(np.ones((4, 4)), np.zeros(4), verbose=0)


async def test_archives_say_who_wrote_them(
    saved: Path, tmp_path: Path, loader: asyncload.Loader
) -> None:
    config, path = config_of(saved / "m.keras"), tmp_path / "m.keras"
    functional = {**config, "module": "tf_keras.src.engine.functional", "class_name": "Functional"}
    layers = config["config"]["layers"]
    wider = {**layers[1], "config": {**layers[1]["config"], "units": 5}}
    unknown = {**layers[1], "config": {**layers[1]["config"], "time_major": False}}
    configs = (
        functional,
        {**config, "config": {**config["config"], "layers": [layers[0], wider]}},
        {**config, "config": {**config["config"], "layers": [layers[0], unknown]}},
    )
    for version, says in (("2.15.0", True), ("3.15.1", False), ([2], False), ("new", False)):
        with_config(saved / "m.keras", path, config, metadata={"keras_version": version})
        assert await loader.load(path)  # what can be read is read
        for each in configs:
            with_config(saved / "m.keras", path, each, metadata={"keras_version": version})
            with pytest.raises((asyncload.FormatError, asyncload.MismatchError)) as caught:
                await loader.load(path)
            said = "written by Keras 2.15.0" in str(caught.value)
            assert said == ("tf_keras (pip install" in str(caught.value)) == says


def test_a_program_that_uses_tf_keras_is_told(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def load() -> None:
        async with asyncload.Loader(executor="thread") as loader:
            await loader.load(saved / "m.keras")

    with caplog.at_level(logging.WARNING, "asyncload"):
        asyncio.run(load())
        assert not caplog.records
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
        asyncio.run(load())
        asyncio.run(load())
    assert ["TF_USE_LEGACY_KERAS" in each.getMessage() for each in caplog.records] == [True]
