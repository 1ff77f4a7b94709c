"""Which loads are the same: what was asked for, in a form that compares."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from dataclasses import fields
from typing import Any

from asyncload.sources import file_path

from ._options import LoadOptions

__all__ = ["comparable", "key_of_load", "key_of_weights"]

_PLAIN = (str, bytes, bool, int, float, type(None))


class _Same:
    """Equal to what wraps the very same object, which it keeps."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def comparable(value: Any) -> Hashable:
    """Return what equals that of another value if the two are sure to mean the same.

    Texts, numbers, paths, and mappings, sequences and sets of such are compared by value; all else
    (functions, classes, arrays, objects) by identity.
    """
    if isinstance(value, _PLAIN):
        return type(value), value  # True is no 1 here
    if isinstance(value, Mapping):
        return "mapping", frozenset((comparable(k), comparable(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return "sequence", tuple(comparable(item) for item in value)
    if isinstance(value, set | frozenset):
        return "set", frozenset(comparable(item) for item in value)
    if isinstance(value, os.PathLike):
        return "path", os.fspath(value)
    return _Same(value)


def key_of_load(
    uri: str | os.PathLike[str], options: LoadOptions, storage: Mapping[str, Any]
) -> Hashable:
    """Return what equals the key of another `Loader.load` if one result will do for both.

    Args:
        uri: as given.
        options: how.
        storage: all ``storage_options``, those of the Loader included.
    """
    # What is said of a store counts once, together with what the Loader was told.
    apart = {"storage_options", "scopes"}
    names = [field.name for field in fields(LoadOptions) if field.name not in apart]
    chosen = {name: getattr(options, name) for name in names} | {"scopes": options.scopes.found}
    return "load", _location(uri), comparable(chosen), comparable(storage)


def key_of_weights(
    uri: str | os.PathLike[str], verify: bool, on_change: str, storage: Mapping[str, Any]
) -> Hashable:
    """Return what equals the key of another `Loader.load_weights` if one result will do for both.

    Args: as `key_of_load` takes them.
    """
    return "weights", _location(uri), verify, on_change, comparable(storage)


def _location(uri: str | os.PathLike[str]) -> Hashable:
    path = file_path(uri)
    if path is None:
        return os.fsdecode(uri)  # with the credentials that it may have
    return os.path.abspath(path), path.endswith("/")
