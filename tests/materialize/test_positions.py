"""Legacy weights are matched as Keras matches them, on any layers and any file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.saving import legacy_h5_format

from asyncload.materialize._positions import Order, match_by_name, match_by_position

Shape = tuple[int, ...]
Layout = list[tuple[str, list[Shape]]]  # a layer's name, the shapes of its weights

SHAPES = st.lists(st.sampled_from([(), (2,), (2, 3)]), max_size=2)
LAYOUTS = st.lists(st.tuples(st.sampled_from("abc"), SHAPES), max_size=3)


@dataclass(eq=False)
class Variable:
    path: str
    shape: Shape
    dtype: str = "float32"
    value: Any = None

    def assign(self, value: Any) -> None:
        self.value = np.asarray(value)


@dataclass(eq=False)
class Layer:
    name: str
    trainable_weights: list[Variable]
    non_trainable_weights: list[Variable] = field(default_factory=list)
    finalized: int = 0

    def finalize_state(self) -> None:
        self.finalized += 1


@dataclass(eq=False)
class Model(Layer):
    layers: list[Layer] = field(default_factory=list)

    @property
    def _trainable_variables(self) -> list[Variable]:
        return self.trainable_weights

    @property
    def _non_trainable_variables(self) -> list[Variable]:
        return self.non_trainable_weights

    @property
    def weights(self) -> list[Variable]:
        return self.trainable_weights


def make(layout: Layout, top: Sequence[Shape]) -> Model:
    layers = []
    for name, shapes in layout:
        variables = [Variable(f"{name}/{number}", shape) for number, shape in enumerate(shapes)]
        layers.append(Layer(name, variables[:1], variables[1:]))
    own = [Variable(f"model/{number}", shape) for number, shape in enumerate(top)]
    return Model("model", own, layers=layers)


def write(layout: Layout, top: Sequence[Shape] | None) -> tuple[h5py.File, Order, dict[str, Any]]:
    """Return a file, its order, and its arrays."""
    file = h5py.File(io.BytesIO(), "w")
    arrays: dict[str, Any] = {}

    def fill(name: str, shapes: Sequence[Shape]) -> list[str]:
        group = file.create_group(name)
        group.attrs["weight_names"] = [str(number) for number in range(len(shapes))]
        for number, shape in enumerate(shapes):
            value = np.full(shape, len(arrays) + 1, "f4")
            group[str(number)] = arrays[f"{name}/{number}"] = value
        return [f"{name}/{number}" for number in range(len(shapes))]

    layers = [(name, fill(name, shapes)) for name, shapes in layout]
    file.attrs["layer_names"] = [name for name, _ in layers]
    names = None if top is None else fill("top_level_model_weights", top)
    return file, Order(layers, names, None), arrays


def outcome(model: Model) -> list[Any]:
    owners = [model, *model.layers]
    variables = [v for each in owners for v in each.trainable_weights + each.non_trainable_weights]
    return [each.finalized for each in owners] + [
        None if v.value is None else (v.value.shape, v.value.tobytes()) for v in variables
    ]


def compare(
    ours: Callable[..., Any], stock: Callable[..., None], case: tuple[Any, ...], skip: bool
) -> None:
    layout, top, saved, saved_top = case
    saved = list({name: (name, shapes) for name, shapes in saved}.values())
    file, order, arrays = write(saved, saved_top)
    mine, theirs = make(layout, top), make(layout, top)
    plan = ours(mine, order, arrays, skip_mismatch=skip)
    with file, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            stock(file, theirs, skip)
        except ValueError:
            assert plan.misfits
            return
    assert not plan.misfits
    assert len(plan.skipped) == len(warned)
    plan.apply()
    assert outcome(mine) == outcome(theirs)


CASES = st.tuples(LAYOUTS, SHAPES, LAYOUTS, SHAPES | st.none())
SIMILAR = st.tuples(LAYOUTS, SHAPES).map(lambda made: (*made, *made))  # mostly these fit


@settings(max_examples=150, deadline=None)
@given(CASES | SIMILAR, st.booleans())
def test_by_position_as_keras_does(case: tuple[Any, ...], skip: bool) -> None:
    compare(match_by_position, legacy_h5_format.load_weights_from_hdf5_group, case, skip)


@settings(max_examples=150, deadline=None)
@given(CASES | SIMILAR, st.booleans())
def test_by_name_as_keras_does(case: tuple[Any, ...], skip: bool) -> None:
    compare(match_by_name, legacy_h5_format.load_weights_from_hdf5_group_by_name, case, skip)
