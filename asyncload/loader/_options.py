"""How things are to be loaded: options of `Loader.load` and `load_into`, and their defaults."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypedDict, get_args

__all__ = [
    "IntoKeywords",
    "IntoOptions",
    "LoadKeywords",
    "LoadOptions",
    "OnChange",
    "Priority",
    "check_priority",
]

OnChange = Literal["error", "restart"]
Priority = Literal["demand", "background"]


class Scopes(Protocol):
    """Enters, on another thread, the Keras scopes of whoever asked.

    Attributes:
        found: what is set in them.
    """

    found: Mapping[str, Any]

    def __call__(self) -> AbstractContextManager[None]:
        """Enter them until the block ends."""
        ...


class _NoScopes:
    found: Mapping[str, Any] = MappingProxyType({})

    def __call__(self) -> AbstractContextManager[None]:
        return nullcontext()


class LoadKeywords(TypedDict, total=False):
    """The keyword arguments of `Loader.load`, where they are described."""

    custom_objects: Mapping[str, Any] | None
    compile: bool
    safe_mode: bool
    signatures: Collection[str] | None
    whole: bool
    trusted: bool | None
    verify: bool
    warmup: Any
    reuse: Any
    shared: bool
    storage_options: Mapping[str, Any] | None
    on_change: OnChange


def _capture_keras_scopes() -> Scopes:
    if "keras" not in sys.modules:
        return _NoScopes()
    from asyncload.materialize.keras import capture_scopes

    return capture_scopes()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """See `Loader.load`.

    Attributes:
        scopes: enters, on the construction thread, the Keras scopes of whoever asked.
    """

    custom_objects: Mapping[str, Any] | None = None
    compile: bool = True
    safe_mode: bool = True
    signatures: Collection[str] | None = None
    whole: bool = False
    trusted: bool | None = None
    verify: bool = True
    warmup: Any = None
    reuse: Any = field(default=None, repr=False)
    shared: bool = True
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    on_change: OnChange = "error"
    scopes: Scopes = field(default_factory=_capture_keras_scopes, init=False)

    @property
    def warms_up(self) -> bool:
        """Whether the model is to be called before it is handed over."""
        return self.warmup is not None and self.warmup is not False


class IntoKeywords(TypedDict, total=False):
    """The keyword arguments of `Loader.load_into`, where they are described."""

    by_name: bool
    skip_mismatch: bool
    partial: bool
    verify: bool
    storage_options: Mapping[str, Any] | None
    on_change: OnChange


@dataclass(frozen=True, slots=True, kw_only=True)
class IntoOptions:
    """See `Loader.load_into`.

    Attributes:
        scopes: enters, on the construction thread, the Keras scopes of whoever asked.
    """

    by_name: bool = False
    skip_mismatch: bool = False
    partial: bool = False
    verify: bool = True
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    on_change: OnChange = "error"
    scopes: Scopes = field(default_factory=_capture_keras_scopes, init=False)


def check_priority(priority: str) -> None:
    """Raise `ValueError` if a load cannot have this priority."""
    if priority not in get_args(Priority):
        raise ValueError(f"priority is 'demand' or 'background', not {priority!r}")
