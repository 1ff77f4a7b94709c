"""Questions that Keras asks of the same classes for every layer, answered once.

For each layer, Keras 3.15 takes the signatures of its ``__init__``, ``build`` and ``call``
(operation.py, layer.py), and asks of each argument whether it is a TensorFlow tensor, a walk
through a protocol's attributes on Python 3.11. Together that is a fifth of building a model.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from keras.src.backend.common.keras_tensor import KerasTensor

from ._variables import in_skeleton

__all__ = ["forget", "quick_inspect", "quick_is_tensor"]

_NEVER_TENSORS = frozenset({KerasTensor, bool, int, float, str, type(None)})


def quick_is_tensor(stock: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Override ``keras.src.backend.is_tensor``: types that are none are known at once."""

    @functools.wraps(stock)
    def is_tensor(x: Any) -> bool:
        return type(x) not in _NEVER_TENSORS and stock(x)

    return is_tensor


def quick_inspect(stock: types.ModuleType) -> types.ModuleType:
    """Return a stand-in for the ``inspect`` that a module of Keras imported."""
    quick = types.ModuleType("inspect")
    quick.__dict__.update(vars(stock))
    quick.__dict__.update(signature=_signature, getfullargspec=_getfullargspec, __wrapped__=stock)
    return quick


def forget() -> None:
    """Forget all answers: classes may change between two loads."""
    _known_signature.cache_clear()
    _known_bound_signature.cache_clear()
    _known_argspec.cache_clear()


def _signature(function: Any, **options: Any) -> inspect.Signature:
    if not in_skeleton() or options:
        return inspect.signature(function, **options)
    if type(function) is types.MethodType:
        owner: Any = type(function.__self__)
        return _known_bound_signature(owner, function.__func__)
    if type(function) is types.FunctionType:
        return _known_signature(function)
    return inspect.signature(function)


def _getfullargspec(function: Any) -> inspect.FullArgSpec:
    known = in_skeleton() and type(function) is types.FunctionType
    return _known_argspec(function) if known else inspect.getfullargspec(function)


@functools.lru_cache(maxsize=1024)
def _known_signature(function: Any) -> inspect.Signature:
    return inspect.signature(function)


@functools.lru_cache(maxsize=1024)
def _known_bound_signature(owner: Any, function: Any) -> inspect.Signature:
    # What a method is bound to does not show in its signature, only that it is bound.
    return inspect.signature(types.MethodType(function, owner))


@functools.lru_cache(maxsize=1024)
def _known_argspec(function: Any) -> inspect.FullArgSpec:
    return inspect.getfullargspec(function)
