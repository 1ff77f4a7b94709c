"""Lookup layers with many words, made without holding the GIL for seconds.

Keras 3.15 makes a set of a layer's words, and has TensorFlow make a tensor of them: each is one
call that no other thread can come between, 3 seconds in all for 4.4 million words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ._variables import in_skeleton, rest_in_skeleton

__all__ = ["in_parts"]

_MANY = 20_000  # words


def _are_many(tokens: Any) -> bool:
    return in_skeleton() and isinstance(tokens, np.ndarray) and len(tokens) > _MANY


def _parts(tokens: Any) -> Any:
    for start in range(0, len(tokens), _MANY):
        rest_in_skeleton()
        yield tokens[start : start + _MANY]


def in_parts(layer: Any) -> None:
    """Override what a class of lookup layers does with its words, as far as it still does it so."""
    for name, override in (
        ("_find_repeated_tokens", _finding_repeated_tokens),
        ("_lookup_table_from_tokens", _tabling_tokens),
    ):
        stock = getattr(layer, name, None)
        if stock is not None:
            setattr(layer, name, override(stock))


def _finding_repeated_tokens(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Override ``IndexLookup._find_repeated_tokens``: none, in the case of most."""

    @functools.wraps(stock)
    def _find_repeated_tokens(self: Any, tokens: Any) -> Any:
        if not _are_many(tokens):
            return stock(self, tokens)
        found: set[Any] = set()
        for part in _parts(tokens):
            found.update(part.tolist())
        all_differ = len(found) == len(tokens)
        while found and all_differ:  # dropped bit by bit, too
            for _ in range(min(len(found), _MANY)):
                found.pop()
        return [] if all_differ else stock(self, tokens)

    return _find_repeated_tokens


def _tabling_tokens(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Override ``IndexLookup._lookup_table_from_tokens``: TensorFlow is given a tensor."""

    @functools.wraps(stock)
    def _lookup_table_from_tokens(self: Any, tokens: Any) -> Any:
        if _are_many(tokens) and tokens.dtype.kind == "U":
            with tf.init_scope():
                tokens = tf.concat([tf.constant(part) for part in _parts(tokens)], 0)
        return stock(self, tokens)

    return _lookup_table_from_tokens
