"""How a model is to be made: the options of `Loader.load`, and their defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

__all__ = ["LoadKeywords", "LoadOptions", "OnChange"]

OnChange = Literal["error", "restart"]
Scopes = Callable[[], AbstractContextManager[None]]


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
    storage_options: Mapping[str, Any] | None
    on_change: OnChange


def _capture_keras_scopes() -> Scopes:
    if "keras" not in sys.modules:
        return nullcontext
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
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    on_change: OnChange = "error"
    scopes: Scopes = field(default_factory=_capture_keras_scopes, init=False)

    @property
    def warms_up(self) -> bool:
        """Whether the model is to be called before it is handed over."""
        return self.warmup is not None and self.warmup is not False
