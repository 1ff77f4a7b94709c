"""`brief`: errors are raised where the user awaits, without the way that they took through here.

The whole way is written to the log, at DEBUG, when a load fails.
"""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from asyncload.errors import AsyncloadError

__all__ = ["Brief", "brief", "shorten"]

Params = ParamSpec("Params")
Result = TypeVar("Result")

# Where code lies that is not the program's own.
_FOREIGN = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<frozen ",
)


class Brief:
    """A block that a typed error leaves without a traceback; it gets one of whoever awaits."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shorten(error)


def brief(
    method: Callable[Params, Coroutine[Any, Any, Result]],
) -> Callable[Params, Coroutine[Any, Any, Result]]:
    """Have typed errors of a coroutine function raised where it is awaited."""

    @functools.wraps(method)
    async def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        with Brief():
            return await method(*args, **kwargs)

    return call


def shorten(error: BaseException | None) -> None:
    """Take the way through asyncload out of a typed error's traceback."""
    if not isinstance(error, AsyncloadError):
        return
    if not _is_of_program(error.__traceback__):
        error.__traceback__ = None
    cause = error.__cause__
    if cause is None:
        error.__suppress_context__ = True  # what was handled meanwhile is not news
    elif isinstance(error, type(cause)):
        # Such as NotFound of FileNotFoundError: it says nothing new, and can be looked up.
        error.__cause__, error.__context__ = None, cause
    else:
        _strip(cause)


def _strip(cause: BaseException) -> None:
    """Leave of a foreign cause what it says; of one in the program's own code, the way there."""
    if _is_of_program(cause.__traceback__):
        return
    cause.__traceback__ = None
    cause.__suppress_context__ = True
    if cause.__cause__ is not None:
        _strip(cause.__cause__)


def _is_of_program(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_FOREIGN):
            return True
        traceback = traceback.tb_next
    return False
