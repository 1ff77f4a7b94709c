"""Which legacy weights go into which variables: matched by position, or by the layers' names.

The rules are those of keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15); but a plan
names everything that does not fit, before anything is assigned. Imports no TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.manifest import numpy_dtype

__all__ = ["Order", "Plan", "match_by_name", "match_by_position", "parse_order"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a file's weights, as its document ``weight_names`` has it.

    Attributes:
        layers: (name, paths of its weights) of each layer.
        top: paths of the weights that are the model's own; ``None`` if the file does not say.
        optimizer: paths of the optimizer's; ``None`` if the file has none.
    """

    layers: Sequence[tuple[str, Sequence[str]]]
    top: Sequence[str] | None
    optimizer: Sequence[str] | None


def parse_order(document: bytes) -> Order:
    """Return what the document ``weight_names`` says; ours, so it is as it should be."""
    parsed = json.loads(document)
    layers = [(name, paths) for name, paths in parsed["layers"]]
    return Order(layers, parsed["top"], parsed["optimizer"])


@dataclass(slots=True)
class Plan:
    """What to assign.

    Attributes:
        steps: (layer or model, its variables and their values), in the file's order.
        misfits: a line for each thing that does not fit.
        skipped: a line for each thing that does not fit and is to be left as it is.
    """

    steps: list[tuple[Any, list[tuple[Any, Array]]]] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def apply(self) -> None:
        """Assign the values, and have layers take note of them, as Keras does."""
        for owner, pairs in self.steps:
            for variable, value in pairs:
                variable.assign(value)
            if hasattr(owner, "finalize_state"):
                owner.finalize_state()

    def add(
        self,
        owner: Any,
        variables: Sequence[Any],
        paths: Sequence[str],
        arrays: Mapping[str, Array],
        *,
        skip_count: bool,
        skip_shape: bool,
    ) -> None:
        """Plan one layer, or say why not.

        Args:
            owner: the layer.
            variables: its own, in the order of the file.
            paths: those of its weights in the file.
            arrays: path -> value.
            skip_count: leave the layer as it is if there are more or fewer weights.
            skip_shape: leave a variable as it is if its shape is another.
        """
        if len(variables) != len(paths):
            lines = self.skipped if skip_count else self.misfits
            lines.append(
                f"{owner.name} has {len(variables)} weights, the file has {len(paths)} for it"
            )
            return
        pairs = []
        for variable, path in zip(variables, paths, strict=True):
            value = _typed(arrays[path], variable)
            numbers = value.dtype.type is not np.void
            if numbers and tuple(variable.shape) == value.shape:
                pairs.append((variable, value))
                continue
            (self.skipped if skip_shape and numbers else self.misfits).append(
                f"{path}: {variable.path} has {tuple(variable.shape)} {variable.dtype}, the file "
                f"has {value.shape} {value.dtype}"
            )
        if variables:
            self.steps.append((owner, pairs))


def match_by_position(
    model: Any, order: Order, arrays: Mapping[str, Array], *, skip_mismatch: bool = False
) -> Plan:
    """Match the layers that have weights with those of the file, one after the other.

    Args:
        model: a ``keras.Model``.
        order: of the file's weights.
        arrays: path -> value.
        skip_mismatch: leave variables of another shape as they are.
    """
    plan = Plan()
    layers = [(layer, weights) for layer in model.layers if (weights := _weights(layer))]
    saved = [(name, paths) for name, paths in order.layers if paths]
    if len(layers) != len(saved):
        plan.misfits.append(_other_layers([layer.name for layer, _ in layers], saved))
        return plan
    for (layer, weights), (_, paths) in zip(layers, saved, strict=True):
        plan.add(layer, weights, paths, arrays, skip_count=False, skip_shape=skip_mismatch)
    if order.top is not None:
        ours = {id(weight) for weight in model.weights}
        own = [variable for variable in _own(model) if id(variable) in ours]
        plan.add(model, own, order.top, arrays, skip_count=False, skip_shape=skip_mismatch)
    return plan


def match_by_name(
    model: Any, order: Order, arrays: Mapping[str, Array], *, skip_mismatch: bool = False
) -> Plan:
    """Match layers that have the name of one in the file; others stay as they are.

    Args:
        model: a ``keras.Model``.
        order: of the file's weights.
        arrays: path -> value.
        skip_mismatch: leave layers with more or fewer weights, and variables of another shape,
            as they are.
    """
    plan = Plan()
    named: dict[str, list[Any]] = {}
    for layer in model.layers:
        named.setdefault(layer.name, []).append(layer)
    for name, paths in order.layers:
        for layer in named.get(name, ()):
            plan.add(
                layer,
                _weights(layer),
                paths,
                arrays,
                skip_count=skip_mismatch,
                skip_shape=skip_mismatch,
            )
    if order.top is not None:
        plan.add(
            model,
            _own(model),
            order.top,
            arrays,
            skip_count=skip_mismatch,
            skip_shape=skip_mismatch,
        )
    return plan


def _weights(layer: Any) -> list[Any]:
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _own(model: Any) -> list[Any]:
    return [*model._trainable_variables, *model._non_trainable_variables]


def _typed(value: Array, variable: Any) -> Array:
    """Return the value as numbers: Keras saves bfloat16 as two bytes of no known type."""
    if value.dtype.type is not np.void:
        return value
    meant = numpy_dtype(variable.dtype)
    of_ml_dtypes = meant.isbuiltin == 2
    fits = value.dtype.itemsize == meant.itemsize
    return value.view(meant) if of_ml_dtypes and fits else value


def _other_layers(names: Sequence[str], saved: Sequence[tuple[str, Sequence[str]]]) -> str:
    in_file = [name for name, _ in saved]
    only = [
        f"only in {where}: {', '.join(sorted(set(these) - set(those)))}"
        for where, these, those in (("the model", names, in_file), ("the file", in_file, names))
        if set(these) - set(those)
    ]
    counts = f"the model has {len(names)} layers with weights, the file has {len(in_file)}"
    return "; ".join([counts, *only])
