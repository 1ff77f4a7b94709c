"""Questions that Keras asks for every layer, answered once or without leaving Python.

For each layer, Keras 3.15 takes the signatures of its ``__init__``, ``build`` and ``call``
(operation.py, layer.py), and asks of each argument whether it is a TensorFlow tensor, a walk
through a protocol's attributes on Python 3.11. Together that is a fifth of building a model.

It also has optree look through the arguments of each call, mostly a tensor or a list of some.
optree lets go of the GIL and takes it again each time, tens of microseconds apart, and CPython
wakes a waiting thread at each of these without ever making the holder give way: the event loop's
thread waited 10 ms for its turn.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from keras.src.backend.common.keras_tensor import KerasTensor

from ._variables import in_skeleton, rest_in_skeleton

__all__ = [
    "forget",
    "quick_flatten",
    "quick_inspect",
    "quick_is_nested",
    "quick_is_tensor",
    "quick_map_structure",
    "quick_snake_case",
]

_NEVER_TENSORS = frozenset({KerasTensor, bool, int, float, str, type(None)})
_nested: dict[type, bool] = {}  # what optree takes apart, and what it does not


def quick_is_tensor(stock: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Override ``keras.src.backend.is_tensor``: types that are none are known at once."""

    @functools.wraps(stock)
    def is_tensor(x: Any) -> bool:
        return type(x) not in _NEVER_TENSORS and stock(x)

    return is_tensor


def quick_is_nested(stock: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Override ``tree_impl.is_nested``: optree decides by type alone, so once for each."""

    @functools.wraps(stock)
    def is_nested(structure: Any) -> bool:
        rest_in_skeleton()
        kind = type(structure)
        nested = _nested.get(kind)
        if nested is None:
            nested = _nested[kind] = stock(structure)
        return nested

    return is_nested


def quick_flatten(
    stock: Callable[[Any], list[Any]], is_nested: Callable[[Any], bool]
) -> Callable[[Any], list[Any]]:
    """Override ``tree_impl.flatten``: lists, tuples and dicts are flattened here."""

    def extend(leaves: list[Any], structure: Any) -> None:
        kind = type(structure)
        if kind is tuple or kind is list:
            for item in structure:
                extend(leaves, item)
        elif kind is dict and all(type(key) is str for key in structure):
            for key in sorted(structure):
                extend(leaves, structure[key])
        elif is_nested(structure):
            leaves.extend(stock(structure))
        else:
            leaves.append(structure)

    @functools.wraps(stock)
    def flatten(structure: Any) -> list[Any]:
        leaves: list[Any] = []
        extend(leaves, structure)
        return leaves

    return flatten


def quick_map_structure(
    stock: Callable[..., Any], is_nested: Callable[[Any], bool]
) -> Callable[..., Any]:
    """Override ``tree_impl.map_structure``: one structure of lists and tuples is mapped here."""

    def mapped(func: Callable[[Any], Any], structure: Any) -> Any:
        kind = type(structure)
        if kind is tuple or kind is list:
            return kind([mapped(func, item) for item in structure])
        if not is_nested(structure):
            return func(structure)
        if kind is dict and not structure:
            return {}
        return stock(func, structure)

    @functools.wraps(stock)
    def map_structure(func: Any, *structures: Any, none_is_leaf: bool = True) -> Any:
        if len(structures) == 1 and none_is_leaf:
            return mapped(func, structures[0])
        return stock(func, *structures, none_is_leaf=none_is_leaf)

    return map_structure


def quick_snake_case(stock: Callable[[str], str]) -> Callable[[str], str]:
    """Override ``naming.to_snake_case``: three regular expressions, once for each name of a class.

    Keras asks for every layer that it makes, and for every place where it finds one to load.
    """
    known = functools.lru_cache(maxsize=1024)(stock)

    @functools.wraps(stock)
    def to_snake_case(name: str) -> str:
        rest_in_skeleton()
        return known(name)

    return to_snake_case


def quick_inspect(stock: types.ModuleType) -> types.ModuleType:
    """Return a stand-in for the ``inspect`` that a module of Keras imported."""
    quick = types.ModuleType("inspect")
    quick.__dict__.update(vars(stock))
    quick.__dict__.update(signature=_signature, getfullargspec=_getfullargspec, __wrapped__=stock)
    return quick


def forget() -> None:
    """Forget all answers: classes may change, and be registered, between two loads."""
    _nested.clear()
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
