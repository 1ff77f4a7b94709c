"""Answers given quickly are those that Keras and optree give."""

from __future__ import annotations

import collections
import inspect
from typing import Any, NamedTuple

import keras
import numpy as np
import optree
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras.src.tree import optree_impl

from asyncload.materialize._private import Skeleton, _lookups

# The overrides are in place from the first Skeleton on; these are what they override.
Skeleton()
STOCK_FLATTEN = optree_impl.flatten.__wrapped__
STOCK_MAP = optree_impl.map_structure.__wrapped__
STOCK_IS_NESTED = optree_impl.is_nested.__wrapped__


class Point(NamedTuple):
    x: Any
    y: Any


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats()
structures = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Point, inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=3)
        | st.builds(collections.OrderedDict, st.lists(st.tuples(st.text(max_size=2), inner)))
    ),
    max_leaves=10,
)


@given(structures)
def test_flatten_and_map_are_optrees(structure: Any) -> None:
    assert repr(keras.tree.flatten(structure)) == repr(STOCK_FLATTEN(structure))
    assert optree_impl.is_nested(structure) == STOCK_IS_NESTED(structure)
    seen: list[list[Any]] = [[], []]

    def note(which: int) -> Any:
        def text(leaf: Any) -> str:
            seen[which].append(leaf)
            return str(leaf)

        return text

    mine = optree_impl.map_structure(note(0), structure)
    theirs = STOCK_MAP(note(1), structure)
    assert repr(mine) == repr(theirs)
    assert type(mine) is type(theirs)
    assert repr(seen[0]) == repr(seen[1])


def test_tensors_and_classes_that_optree_learns_later() -> None:
    x = keras.Input((2,))
    for leaf in (x, tf.zeros(2), np.zeros(2), object()):
        assert not optree_impl.is_nested(leaf)
        first, second = optree_impl.flatten([leaf, (leaf,)])
        assert first is leaf
        assert second is leaf

    class Box:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

    assert not optree_impl.is_nested(Box(1))
    register: Any = optree.register_pytree_node
    register(Box, lambda box: ((box.inner,), None), lambda _, inner: Box(*inner), namespace="keras")
    Skeleton()
    assert optree_impl.flatten({"b": Box([1, 2]), "a": 3}) == [3, 1, 2]


@pytest.mark.parametrize("layer", [keras.layers.Dense(2), keras.layers.Conv2D(2, 3)])
def test_signatures_are_inspects(layer: Any) -> None:
    with Skeleton().active():
        for function in (type(layer).__init__, layer.call, layer.build, len, lambda x, *_: x):
            for _ in range(2):
                assert _lookups._signature(function) == inspect.signature(function)
        spec = _lookups._getfullargspec(type(layer).__init__)
        assert spec == inspect.getfullargspec(type(layer).__init__)


def test_is_tensor_is_kerass() -> None:
    x = keras.Input((2,))
    for value in (x, tf.zeros(2), np.zeros(2), tf.Variable(1.0), keras.Variable(1.0), None, 1, "a"):
        assert keras.src.backend.is_tensor(value) == tf.is_tensor(value)
