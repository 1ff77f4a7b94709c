"""Models whose answers prove which version they are of, and that they are of one version only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

__all__ = ["ONES", "answer", "save", "save_versions", "version_of"]

_PARTS = 4
ONES = np.ones((1, 4), "float32")


def _model(version: int, width: int = 2) -> Any:
    """Return a model with nothing but ``version`` in its weights, all of which its answer shows."""
    inputs = keras.Input((4,), name="x")
    parts = [keras.layers.Dense(width, name=f"part{i}")(inputs) for i in range(_PARTS)]
    outputs = keras.layers.Concatenate(name="parts")(parts)
    model = keras.Model(inputs, outputs, name="model")
    for variable in model.variables:
        variable.assign(np.full(variable.shape, version, "float32"))
    return model


def save(version: int, path: Path, *, width: int = 2) -> Path:
    """Save a version: a ``.keras`` file, or the folder of a SavedModel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = _model(version, width)
    if path.suffix == ".keras":
        model.save(path)
    else:
        model.export(path, verbose=False)
    return path


def save_versions(base: Path, *versions: int) -> Path:
    """Save ``base/<version>/model.keras`` for each version; return the base."""
    for version in versions:
        save(version, base / str(version) / "model.keras")
    return base


def answer(model: Any) -> Any:
    """Call a Keras model, or Signatures."""
    outputs = model(ONES)
    return np.asarray(next(iter(outputs.values())) if isinstance(outputs, dict) else outputs)


def version_of(model: Any) -> int:
    """Return the version that all parts of a model's answer agree on."""
    values = answer(model) / (ONES.shape[1] + 1)
    assert values.min() == values.max(), f"a mixture of versions: {values}"
    return int(values.min())
