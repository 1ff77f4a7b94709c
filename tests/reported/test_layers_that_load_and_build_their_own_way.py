"""Layers that change the arrays that they are given, or a variable's value in their ``build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from asyncload import Loader
from asyncload.events import Event, FellBack
from tests.equality import assert_same_model


@keras.saving.register_keras_serializable("own ways")
class Halved(layers.Dense):
    """A layer that changes what it is given before it keeps it, and reads it twice."""

    def load_own_variables(self, store: Any) -> None:
        kernel = np.asarray(store["0"])
        kernel *= 0.5
        bias = store["1"][:]
        bias += 1
        super().load_own_variables(store)
        self.kernel.assign(kernel)
        self.bias.assign(bias)


@keras.saving.register_keras_serializable("own ways")
class SetInBuild(layers.Layer):
    """A layer that sets values of the TensorFlow variables themselves."""

    def build(self, shape: Any) -> None:
        self.kept = self.add_weight(shape=(shape[-1],), name="kept")
        self.kept.value.assign(np.full(shape[-1], 7.0))
        self.unsaved = keras.Variable(np.zeros(2, "f4"), trainable=False)
        self.unsaved.value.assign_add([1.0, 2.0])
        self.seen = float(self.kept.value.numpy()[0])

    def call(self, x: Any) -> Any:
        return x * self.kept + self.seen


@pytest.mark.parametrize("kind", [Halved, SetInBuild])
async def test_they_do_not_fall_back(tmp_path: Path, kind: Any) -> None:
    """The model is stock's, made the fast way."""
    layer = kind(3) if kind is Halved else kind()
    model = keras.Sequential([keras.Input((3,)), layer, layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    events: list[Event] = []
    async with Loader(executor="thread", observer=events.append) as loader:
        loaded = await loader.load(tmp_path / "m.keras")
        await loader.load_into(loaded, tmp_path / "m.keras")
    assert [event for event in events if isinstance(event, FellBack)] == []
    stock = keras.models.load_model(tmp_path / "m.keras")
    assert_same_model(loaded, stock)
    x = np.ones((1, 3), "f4")
    assert np.array_equal(loaded(x), stock(x))
