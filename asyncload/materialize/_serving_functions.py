"""The functions that signatures need, out of a SavedModel's library and into the runtime."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Protocol

from google.protobuf.message import DecodeError

from asyncload.errors import Corrupt

from . import _private
from ._turn import rest_in_turn, with_rests

__all__ = ["Functions", "register"]


class Functions(Protocol):
    """What has functions.

    Attributes:
        uri: for messages.
    """

    uri: str

    @property
    def functions(self) -> Container[str]:
        """The names of all of them."""
        ...

    def function(self, name: str) -> list[tuple[int, memoryview]] | None:
        """Return the fields of a ``FunctionDef``; ``None`` if it is missing."""
        ...


def register(parts: Functions, wanted: Iterable[str]) -> _private.Library:
    """Register functions, and all that they call.

    Args:
        parts: the SavedModel that has them.
        wanted: their names in it.

    Returns:
        The library that holds them.

    Raises:
        Corrupt: one is missing, or calls itself.
        tf.errors.OpError: the runtime refuses one.
    """
    library = _private.Library()
    drafts: dict[str, _private.Draft] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        rest_in_turn()
        if name not in drafts:
            drafts[name] = _draft(parts, name)
            waiting.extend(drafts[name].calls)
    calls = {name: draft.calls for name, draft in drafts.items()}
    for name in with_rests(_callees_first(calls, parts.uri)):
        library.add(name, drafts[name])
    return library


def _draft(parts: Functions, name: str) -> _private.Draft:
    function = parts.function(name)
    if function is None:
        raise Corrupt(
            f"has no function {name!r}, which it calls; export the model again", uri=parts.uri
        )
    try:
        return _private.Draft(function, parts.functions)
    except DecodeError as error:
        raise Corrupt(
            f"has a damaged function {name!r}; copy or export the model again", uri=parts.uri
        ) from error


def _callees_first(calls: dict[str, list[str]], uri: str) -> Iterator[str]:
    """Yield functions in an order in which each comes after those that it calls."""
    done: set[str] = set()
    for first in calls:
        path: dict[str, Iterator[str]] = {}
        if first not in done:
            path[first] = iter(calls[first])
        while path:
            name = next(reversed(path))
            called = next((each for each in path[name] if each not in done), None)
            if called is None:
                path.popitem()
                done.add(name)
                yield name
            elif called in path:
                raise Corrupt(
                    f"has a function that calls itself: {called!r}; export the model again", uri=uri
                )
            else:
                path[called] = iter(calls[called])
