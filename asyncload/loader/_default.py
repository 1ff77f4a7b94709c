"""``asyncload.load`` and the other functions, on a Loader that belongs to the running loop.

Each is made of the method of `Loader` that has its name, with its parameters and its documentation.
"""

from __future__ import annotations

import asyncio
import functools
import inspect as inspection
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

from asyncload.events import Event, Observer

from ._brief import brief
from ._loader import Loader
from ._reports import guarded
from ._takes import signature_with_types

__all__ = [
    "aclose",
    "default_loader",
    "fetch",
    "inspect",
    "load",
    "load_into",
    "load_many",
    "load_weights",
    "ls",
    "map_parts",
    "prefetch",
    "set_observer",
    "stream",
]

Params = ParamSpec("Params")
Result = TypeVar("Result")

_observers: list[Observer | None] = []  # one, or none
_PUBLIC = "asyncload"  # where users find these functions

_loaders: WeakKeyDictionary[asyncio.AbstractEventLoop, Loader] = WeakKeyDictionary()


def default_loader() -> Loader:
    """Return the running loop's Loader, which ends with the loop."""
    loop = _running_loop()
    loader = _loaders.get(loop)
    if loader is None or loader.closed:
        _forget_closed_loops()
        loader = _loaders[loop] = Loader(observer=_tell)
    return loader


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise RuntimeError(
            f"{error}: call this in an async function, or use asyncload.sync, which needs none"
        ) from None


def _forget_closed_loops() -> None:
    for loop in [loop for loop in list(_loaders) if loop.is_closed()]:
        _loaders.pop(loop, None)


async def aclose() -> None:
    """Close the running loop's default Loader; the next call makes a new one."""
    loader = _loaders.pop(asyncio.get_running_loop(), None)
    if loader is not None:
        await loader.aclose()


def set_observer(observer: Observer | None) -> None:
    """Have a function called with every event of default Loaders, those that exist included.

    Args:
        observer: takes the place of the one before; ``None`` for none. It is called as the
            ``observer`` of a `Loader` is, on the thread of the loop concerned.
    """
    _observers[:] = [guarded(observer)]


def _tell(event: Event) -> None:
    for observer in _observers:
        if observer is not None:
            observer(event)


def _of_running_loop(
    method: Callable[Concatenate[Loader, Params], Result],
) -> Callable[Params, Result]:
    """Return a function that calls a method of the running loop's Loader, and looks like it."""
    call: Callable[..., Any]
    if inspection.iscoroutinefunction(method):

        @brief
        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await method(default_loader(), *args, **kwargs)

    else:

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return method(default_loader(), *args, **kwargs)

    signature = signature_with_types(method)
    _, *parameters = signature.parameters.values()
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__module__, call.__qualname__ = _PUBLIC, method.__name__
    return cast("Callable[Params, Result]", call)


load = _of_running_loop(Loader.load)
prefetch = _of_running_loop(Loader.prefetch)
load_many = _of_running_loop(Loader.load_many)
load_into = _of_running_loop(Loader.load_into)
load_weights = _of_running_loop(Loader.load_weights)
stream = _of_running_loop(Loader.stream)
map_parts = _of_running_loop(Loader.map_parts)
inspect = _of_running_loop(Loader.inspect)
ls = _of_running_loop(Loader.ls)
fetch = _of_running_loop(Loader.fetch)
