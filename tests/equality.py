"""Exact comparison of Keras models: same bytes, same dtypes, nothing approximate."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["assert_same_model", "same_bytes"]


def same_bytes(left: Any, right: Any) -> bool:
    """Whether two arrays have the same dtype, shape and bytes."""
    left, right = np.asarray(left), np.asarray(right)
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def _seeded(variable: Any, model: Any) -> bool:
    """Whether the variable's first value is set by the model and not drawn at random."""
    if "seed_generator" not in variable.path:
        return True
    owners = [
        layer.seed_generator
        for layer in model._flatten_layers()
        if hasattr(layer, "seed_generator")
    ]
    return any(o.state is variable and o._initial_seed is not None for o in owners)


def _unnumbered(name: str) -> str:
    # Keras numbers what has no name of its own through the whole process.
    return re.sub(r"_\d+", "", name)


def _traits(variable: Any) -> tuple[Any, ...]:
    return (
        _unnumbered(variable.name),
        variable.dtype,
        tuple(variable.shape),
        variable.trainable,
        variable.aggregation,
        variable.synchronization,
        type(variable.value).__name__,
    )


def assert_same_model(model: Any, stock: Any) -> None:
    """Assert that a model is what Keras would have loaded: class, config, state, compilation."""
    assert type(model) is type(stock)
    assert model.get_config() == stock.get_config()
    assert model.built == stock.built
    assert model.compiled == stock.compiled
    assert model.get_compile_config() == stock.get_compile_config()
    assert len(model.variables) == len(stock.variables)
    for mine, theirs in zip(model.variables, stock.variables, strict=True):
        assert _traits(mine) == _traits(theirs)
        if _seeded(theirs, stock):
            assert same_bytes(mine.numpy(), theirs.numpy()), mine.path
        assert _unnumbered(mine.path) == _unnumbered(theirs.path)
    for mine, theirs in zip(model._flatten_layers(), stock._flatten_layers(), strict=True):
        assert type(mine) is type(theirs)
        assert mine.dtype_policy == theirs.dtype_policy
        assert sorted(vars(mine)) == sorted(vars(theirs)), mine.name
    _assert_same_optimizer(model, stock)


def _assert_same_optimizer(model: Any, stock: Any) -> None:
    mine, theirs = getattr(model, "optimizer", None), getattr(stock, "optimizer", None)
    if mine is None or theirs is None:
        assert mine is theirs
        return
    assert type(mine) is type(theirs)
    assert mine.get_config() == theirs.get_config()
    for one, other in zip(mine.variables, theirs.variables, strict=True):
        assert _traits(one) == _traits(other)
        assert same_bytes(one.numpy(), other.numpy()), one.path
