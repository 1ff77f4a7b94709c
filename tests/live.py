"""Keras models that live: their values, and whether anything of them changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.equality import same_bytes

__all__ = [
    "SUFFIXES",
    "Values",
    "dense",
    "functional",
    "same",
    "save",
    "scramble",
    "stock",
    "train",
    "unchanged",
    "values",
    "variables",
]

Values = list[np.ndarray[Any, Any]]
SUFFIXES = (".keras", ".weights.h5", ".h5")


def variables(model: Any) -> list[Any]:
    """Return everything that could change, optimizers of models inside it included."""
    found = {}
    for layer in model._flatten_layers():
        optimizer = getattr(layer, "optimizer", None)
        for variable in [*layer.variables, *(optimizer.variables if optimizer else ())]:
            found[id(variable)] = variable
    return list(found.values())


def values(model: Any) -> Values:
    return [variable.numpy() for variable in variables(model)]


def scramble(model: Any) -> Values:
    """Give all variables values of no sense, and return them."""
    for number, variable in enumerate(variables(model)):
        variable.assign(tf.cast(tf.fill(variable.shape, number % 7), variable.dtype))
    return values(model)


def same(left: Values, right: Values) -> bool:
    return all(same_bytes(one, other) for one, other in zip(left, right, strict=True))


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Assert that the block changes nothing, bit for bit."""
    before, held = values(model), [variable._value for variable in variables(model)]
    attributes = [dict(vars(layer)) for layer in model._flatten_layers()]
    yield
    assert same(values(model), before)
    for one, other in zip(held, variables(model), strict=True):
        assert other._value is one
    for layer, found in zip(model._flatten_layers(), attributes, strict=True):
        assert vars(layer).keys() == found.keys()
        changed = {name for name, value in found.items() if vars(layer)[name] is not value}
        assert changed <= {"_jit_compile"}, layer  # which Keras sets when it is first looked at


def save(model: Any, path: Path) -> Path:
    """Save a model as Keras does for this name."""
    if path.name.endswith(".weights.json"):
        model.save_weights(path, max_shard_size=2e-5)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def stock(model: Any, path: Path, **options: Any) -> Values:
    """Return what ``load_weights`` makes of a scrambled model."""
    scramble(model)
    model.load_weights(path, **options)
    return values(model)


def train(model: Any) -> None:
    """Give a model an optimizer that has its state."""
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)


def dense(width: int = 4) -> Any:
    layers = [keras.layers.Dense(width, name="first"), keras.layers.Dense(2, name="second")]
    return keras.Sequential([keras.Input((3,)), *layers])


def functional(*names: str, widths: tuple[int, ...] = (3, 3, 3)) -> Any:
    x = inputs = keras.Input((3,))
    for name, width in zip(names, widths, strict=True):
        x = keras.layers.Dense(width, name=name)(x)
    return keras.Model(inputs, x)
