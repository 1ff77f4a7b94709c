"""Plain attributes of layers, set without the tracking that would leave them as they are."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

from keras.src.layers.layer import Layer

from asyncload.materialize._long_lists import LongList

from ._variables import here, in_skeleton, rest_in_skeleton

__all__ = ["untracked_when_plain"]

_PLAIN = frozenset({bool, int, float, str, type(None), types.FunctionType, LongList})


@functools.cache
def _stock_setters() -> frozenset[type]:
    return frozenset(kind for kind in Layer.__mro__ if "__setattr__" in vars(kind))


@functools.lru_cache(maxsize=4096)
def _has_only_stock_setters(kind: type) -> bool:
    bases = [base for base in kind.__mro__ if "__setattr__" in vars(base)]
    return _stock_setters().issuperset(bases)


def untracked_when_plain(stock: Callable[[Any, str, Any], None]) -> Callable[..., None]:
    """Override ``Layer.__setattr__``: what stock would look at and leave alone is set at once."""

    @functools.wraps(stock)
    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807 - it is one
        kind: Any = type(self)
        if (
            type(value) in _PLAIN
            and in_skeleton()
            and "_tracker" in self.__dict__
            # What the class has too may be a property, which stock knows how to treat.
            and not hasattr(kind, name)
            and _has_only_stock_setters(kind)
        ):
            object.__setattr__(self, name, value)
        else:
            rest_in_skeleton()
            if name == "_tracker" and in_skeleton():  # which each layer gets first, and once
                here.made.append(weakref.ref(self))
            stock(self, name, value)

    return __setattr__
