"""HDF5 files as Keras 2 wrote them, which no Keras installed here does any more.

The layout is that of tf_keras 2.15's ``save_model``: configs without modules, weights by the
names of TensorFlow's variables (``dense/kernel:0``), names as fixed-length bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["MODEL", "TRAINING", "Layers", "layers", "save_model", "save_weights"]

# Name of a layer -> its weights, by name, in the order of Keras 2: trainable ones first.
Layers = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]


def _made(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": config}


def _dense(name: str, units: int, activation: str) -> dict[str, Any]:
    return _made(
        "Dense",
        name=name,
        trainable=True,
        dtype="float32",
        units=units,
        activation=activation,
        use_bias=True,
        kernel_initializer=_made("GlorotUniform", seed=None),
        bias_initializer=_made("Zeros"),
        kernel_regularizer=_made("L2", l2=0.01),
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
    )


def _normalization(name: str) -> dict[str, Any]:
    return _made(
        "BatchNormalization",
        name=name,
        trainable=True,
        dtype="float32",
        axis=[1],
        momentum=0.99,
        epsilon=0.001,
        center=True,
        scale=True,
        beta_initializer=_made("Zeros"),
        gamma_initializer=_made("Ones"),
        moving_mean_initializer=_made("Zeros"),
        moving_variance_initializer=_made("Ones"),
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
    )


def _input(name: str, width: int) -> dict[str, Any]:
    shape = [None, width]
    return _made(
        "InputLayer",
        batch_input_shape=shape,
        dtype="float32",
        sparse=False,
        ragged=False,
        name=name,
    )


def _node(layer: dict[str, Any], *inputs: str) -> dict[str, Any]:
    nodes = [[[name, 0, 0, {}] for name in inputs]] if inputs else []
    return {**layer, "name": layer["config"]["name"], "inbound_nodes": nodes}


_INNER = _made(
    "Sequential",
    name="inner",
    layers=[_input("inner_input", 4), _dense("deep", 4, "tanh")],
)
MODEL: dict[str, Any] = _made(
    "Functional",
    name="model",
    trainable=True,
    layers=[
        _node(_input("input_1", 3)),
        _node(_dense("dense", 4, "relu"), "input_1"),
        _node(_normalization("norm"), "dense"),
        _node(_INNER, "norm"),
        _node(_made("Dropout", name="drop", trainable=True, rate=0.5, noise_shape=None), "inner"),
        _node(_made("Add", name="add", trainable=True, dtype="float32"), "norm", "drop"),
        _node(_dense("out", 2, "softmax"), "add"),
    ],
    input_layers=[["input_1", 0, 0]],
    output_layers=[["out", 0, 0]],
)
TRAINING: dict[str, Any] = {
    "loss": _made("CategoricalCrossentropy", reduction="sum", name="cc", from_logits=False),
    "metrics": None,
    "weighted_metrics": None,
    "loss_weights": None,
    "optimizer_config": _made("Adam", name="Adam", learning_rate=0.01, beta_1=0.9, epsilon=1e-7),
}


def layers(seed: int = 0) -> Layers:
    """Return weights for `MODEL`."""
    rng = np.random.default_rng(seed)

    def dense(name: str, before: int, after: int) -> dict[str, Any]:
        return {
            f"{name}/kernel:0": rng.random((before, after), "float32"),
            f"{name}/bias:0": rng.random(after, "float32"),
        }

    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    return {
        "input_1": {},
        "dense": dense("dense", 3, 4),
        "norm": {f"norm/{name}:0": rng.random(4, "float32") for name in norm},
        "inner": dense("deep", 4, 4),
        "drop": {},
        "add": {},
        "out": dense("out", 4, 2),
    }


def save_weights(path: Path, weights: Layers) -> Path:
    """Write weights, as ``model.save_weights("name.h5")`` of Keras 2 does."""
    with h5py.File(path, "w") as file:
        _write(file, weights)
    return path


def save_model(
    path: Path, weights: Layers, *, training: Mapping[str, Any] | None = None, **attributes: Any
) -> Path:
    """Write a model, as ``model.save("name.h5")`` of Keras 2 does.

    Args:
        path: where to.
        weights: of its layers.
        training: its ``training_config``, with an optimizer's state of Adam.
        attributes: of the root, in the place of those of `MODEL`.
    """
    with h5py.File(path, "w") as file:
        _write(file.create_group("model_weights"), weights)
        root = {"keras_version": "2.15.0", "backend": "tensorflow", "model_config": MODEL}
        if training is not None:
            root["training_config"] = training
            state = file.create_group("optimizer_weights")
            state["iteration:0"] = np.int64(7)
            state["learning_rate:0"] = np.float32(0.5)
            _names(state, "weight_names", ["iteration:0", "learning_rate:0"])
        for name, value in {**root, **attributes}.items():
            text = value if isinstance(value, str) else json.dumps(value)
            file.attrs[name] = text.encode()
    return path


def _write(group: h5py.Group, weights: Layers) -> None:
    _names(group, "layer_names", list(weights))
    for name, values in weights.items():
        layer = group.create_group(name)
        _names(layer, "weight_names", list(values))
        for path, value in values.items():
            layer[path] = value


def _names(group: h5py.Group, name: str, names: Sequence[str]) -> None:
    """Write a list of names, split as Keras splits it: an attribute takes 64 KiB at most."""
    array = np.array([each.encode() for each in names])
    parts = np.array_split(array, array.nbytes // 64_512 + 1)
    for number, part in enumerate(parts):
        group.attrs[name if len(parts) == 1 else f"{name}{number}"] = part
