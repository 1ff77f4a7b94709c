"""A model that is dropped is gone, its weights too, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from asyncload import Loader

PATIENCE = 20.0  # seconds


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch the garbage collector off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def functional() -> Any:
    """Return a model with a model inside, and a layer that is used twice."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    x = shared(inner(shared(inputs)))
    return keras.Model(inputs, layers.Add()([x, layers.Dropout(0.5)(x)]))


def sequential() -> Any:
    """Return a Sequential model."""
    return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Normalization()])


def references(model: Any) -> list[weakref.ref[Any]]:
    """Return references to all that has memory."""
    variables = [variable.value for variable in model.variables]
    return [weakref.ref(each) for each in [*model._flatten_layers(), *variables]]


async def gone(left: list[weakref.ref[Any]]) -> bool:
    """Wait until nothing is left."""
    deadline = time.monotonic() + PATIENCE
    while any(each() is not None for each in left):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("make", [functional, sequential])
async def test_dropped_means_gone(tmp_path: Path, no_collector: None, make: Any, name: str) -> None:
    """Called or not."""
    make().save(tmp_path / name)
    async with Loader(executor="thread") as loader:
        for called in (False, True):
            model = await loader.load(tmp_path / name)
            if called:
                model(np.ones((1, 4), "f4"))
            left = references(model)
            del model
            assert await gone(left)


async def test_a_compiled_model_is_gone_with_the_next_load(
    tmp_path: Path, no_collector: None
) -> None:
    """It refers to itself. What is not dropped stays."""
    for name in ("one", "two"):
        made = functional()
        made.compile("adam", keras.losses.MeanSquaredError())
        made.optimizer.build(made.trainable_variables)
        made.save(tmp_path / f"{name}.keras")
    async with Loader(executor="thread") as loader:
        dropped = await loader.load(tmp_path / "one.keras")
        kept = await loader.load(tmp_path / "one.keras")
        left, stays = references(dropped), references(kept)
        del dropped
        other = await loader.load(tmp_path / "two.keras")
        assert await gone(left)
        assert all(each() is not None for each in stays)
        assert np.array_equal(kept(np.zeros((1, 4), "f4")), other(np.zeros((1, 4), "f4")))


async def test_what_is_still_held_stays(tmp_path: Path, no_collector: None) -> None:
    """A layer keeps its weights, a symbolic tensor all that makes it."""
    made = functional()
    made.save(tmp_path / "m.keras")
    x = np.ones((1, 4), "f4")
    async with Loader(executor="thread") as loader:
        model = await loader.load(tmp_path / "m.keras")
        layer, left = model.layers[-1], references(model)
        symbolic, inputs = model.output, model.input
        del model
        await asyncio.sleep(1)
        assert layer.output is symbolic
        again = keras.Model(inputs, symbolic)
        assert np.array_equal(again(x), made(x))
        del layer, symbolic, inputs, again
    assert any(each() is None for each in left)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a .quantize. method")
async def test_methods_of_the_model_stay_as_they_are(tmp_path: Path) -> None:
    """What was loosened still does what Keras does, and looks so."""
    made = sequential()
    made.save(tmp_path / "m.keras")
    async with Loader(executor="thread") as loader:
        model = await loader.load(tmp_path / "m.keras")
    stock = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, stock):
        each.build((None, 4))
        each.quantize("int8")
    assert model.get_build_config() == stock.get_build_config()
    assert np.array_equal(model.get_weights()[0], stock.get_weights()[0])
