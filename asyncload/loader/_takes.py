"""`takes`: a method of one request is called with what the request is made of.

So the fields of the request are the one list of what the method takes: its names, types and
defaults. Type checkers, editors and `help` show them as the method's own. The method's docstring
describes them; the request has none, as editors would show that instead.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from types import NoneType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_type_hints

__all__ = ["signature_with_types", "takes"]

_ALIKE = 0.75  # of 1, as `difflib` counts

Params = ParamSpec("Params")
Owner = TypeVar("Owner")
Request = TypeVar("Request")
Result = TypeVar("Result")


def takes(
    request: Callable[Params, Request],
) -> Callable[[Callable[[Owner, Request], Result]], Callable[Concatenate[Owner, Params], Result]]:
    """Make a decorator for methods that take a request of this class.

    Args:
        request: a dataclass.
    """

    def decorate(
        method: Callable[[Owner, Request], Result],
    ) -> Callable[Concatenate[Owner, Params], Result]:
        def made(*args: Params.args, **kwargs: Params.kwargs) -> Request:
            try:
                return request(*args, **kwargs)
            except TypeError as error:
                raise _named(error, method, request, args, kwargs) from None

        return _with_signature(_calling(method, made), method, request)

    return decorate


def _calling(
    method: Callable[[Owner, Request], Result], made: Callable[Params, Request]
) -> Callable[Concatenate[Owner, Params], Result]:
    """Return what calls a method with the request that is made; a coroutine function if it is."""
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def awaited(owner: Owner, /, *args: Params.args, **kwargs: Params.kwargs) -> Any:
            return await method(owner, made(*args, **kwargs))

        return cast("Callable[Concatenate[Owner, Params], Result]", awaited)

    @functools.wraps(method)
    def called(owner: Owner, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return method(owner, made(*args, **kwargs))

    return called


def _with_signature(
    call: Callable[Concatenate[Owner, Params], Result],
    method: Callable[..., Any],
    request: Callable[..., Any],
) -> Callable[Concatenate[Owner, Params], Result]:
    own = signature_with_types(method)
    owner = next(iter(own.parameters.values()))
    asked = signature_with_types(request)
    shown = asked.replace(
        parameters=[owner, *asked.parameters.values()], return_annotation=own.return_annotation
    )
    call.__annotations__ = {name: each.annotation for name, each in asked.parameters.items()} | {
        "return": own.return_annotation
    }
    call.__signature__ = shown  # type: ignore[attr-defined]
    return call


def signature_with_types(function: Callable[..., Any]) -> inspect.Signature:
    """Return a signature whose annotations are types, not the texts that they were written as."""
    signature = inspect.signature(function)
    hints = {
        name: None if hint is NoneType else hint for name, hint in get_type_hints(function).items()
    }
    parameters = [
        each.replace(annotation=hints.get(each.name, each.annotation))
        for each in signature.parameters.values()
    ]
    returns = hints.get("return", signature.return_annotation)
    return signature.replace(parameters=parameters, return_annotation=returns)


def _named(
    error: TypeError,
    method: Callable[..., Any],
    request: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> TypeError:
    """Return the error of a wrong call as the method's own, not as the request's."""
    asked = inspect.signature(request)
    try:
        asked.bind(*args, **kwargs)
    except TypeError as wrong:
        name = method.__qualname__.removesuffix(".__init__")
        unknown = next((each for each in kwargs if each not in asked.parameters), None)
        said = str(wrong) if unknown is None else _unexpected(unknown, asked)
        return TypeError(f"{name}() {said}")
    return error


def _unexpected(name: str, asked: inspect.Signature) -> str:
    close = difflib.get_close_matches(name, asked.parameters, 1, _ALIKE)
    meant = f". Did you mean {close[0]!r}?" if close else ""
    return f"got an unexpected keyword argument {name!r}{meant}"
