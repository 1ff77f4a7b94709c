"""How things are to be loaded: what `Loader.load` and the like take, with types and defaults.

Each option and its default stands here once; `takes` makes the parameters of methods of it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from asyncload.errors import NotApplicable
from asyncload.events import Observer
from asyncload.interfaces import Limits
from asyncload.materialize.caller import Scopes, capture_scopes

from ._reports import guarded

__all__ = [
    "URI",
    "IntoOptions",
    "IntoRequest",
    "LoadOptions",
    "LoadRequest",
    "ManyRequest",
    "ModelOptions",
    "OnChange",
    "PrefetchRequest",
    "Priority",
    "check_priority",
    "not_applicable",
    "several_uris",
]

URI = str | os.PathLike[str]

OnChange = Literal["error", "restart"]
Priority = Literal["demand", "background"]

_LIMITS = Limits()
_SAVED_MODEL = "saved-model"  # the format


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What every load of a model can be told: names, types, defaults. See `Loader.load`."""

    custom_objects: Mapping[str, Any] | None = None
    compile: bool = True
    safe_mode: bool = True
    signatures: str | Collection[str] | None = None
    tags: str | Collection[str] | None = None
    whole: bool = False
    trusted: bool | None = None
    verify: bool = True
    warmup: Any = None
    limits: Limits | None = _LIMITS
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    on_change: OnChange = "error"

    def __post_init__(self) -> None:
        _check_mapping("custom_objects", self.custom_objects)
        _check_mapping("storage_options", self.storage_options)
        limits: object = self.limits
        if not isinstance(limits, Limits | None):
            kind = type(limits).__name__
            raise TypeError(f"limits is asyncload.Limits(...), or None for no limits, not a {kind}")
        if self.whole and self.signatures is not None:
            raise TypeError("whole=True gives all signatures; leave out signatures=, or whole=")

    def keywords(self) -> dict[str, Any]:
        """Return these options as keyword arguments, for another request that has them."""
        return {each.name: getattr(self, each.name) for each in fields(ModelOptions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions(ModelOptions):
    """See `Loader.load`.

    Attributes:
        scopes: enters, on the construction thread, what whoever asked has set.
    """

    reuse: Any = field(default=None, repr=False)
    shared: bool = True
    scopes: Scopes = field(default_factory=capture_scopes, init=False)

    @property
    def warms_up(self) -> bool:
        """Whether the model is to be called before it is handed over."""
        return self.warmup is not None and self.warmup is not False

    @property
    def tag_set(self) -> frozenset[str] | None:
        """The tags of the graph that is wanted; ``None`` if nobody said."""
        return None if self.tags is None else frozenset(_several(self.tags))

    @property
    def chosen_signatures(self) -> Collection[str] | None:
        """The names of the signatures that are wanted; ``None`` for all."""
        return None if self.signatures is None else _several(self.signatures)

    def check_format(self, form: str, *, uri: str) -> None:
        """Refuse what only a SavedModel can give, of a file of another format.

        Raises:
            NotApplicable: it was asked for.
        """
        if form == _SAVED_MODEL:
            return
        asked = {"signatures": self.signatures is not None, "tags": self.tags is not None}
        for name, given in {**asked, "whole": self.whole}.items():
            if given:
                raise not_applicable("load", name, "SavedModels", form, uri=uri)

    def check_is_model(self, form: str, *, uri: str) -> None:
        """Refuse what only a model can do, of a file that holds none.

        Raises:
            NotApplicable: it was asked for.
        """
        if self.warms_up:
            raise not_applicable("load", "warmup", "models, and this holds none", form, uri=uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest(LoadOptions):
    # What `Loader.load` takes.
    uri: URI = field(kw_only=False, repr=False)
    priority: Priority = "demand"
    observer: Observer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchRequest(LoadRequest):
    # What `Loader.prefetch` takes.
    priority: Priority = "background"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyRequest(ModelOptions):
    # What `Loader.load_many` takes.
    uris: Iterable[URI] = field(kw_only=False)
    return_exceptions: bool = False
    priority: Priority = "demand"
    shared: bool = True
    observer: Observer | None = None

    def each(self) -> list[LoadRequest]:
        """Return the request for each URI."""
        observer = guarded(self.observer)  # once for all, so that it is logged once if it fails
        return [
            LoadRequest(
                uri,
                priority=self.priority,
                shared=self.shared,
                observer=observer,
                **self.keywords(),
            )
            for uri in several_uris("load_many", self.uris)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntoOptions:
    """See `Loader.load_into`.

    Attributes:
        scopes: enters, on the construction thread, what whoever asked has set.
    """

    by_name: bool = False
    skip_mismatch: bool = False
    partial: bool = False
    verify: bool = True
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    on_change: OnChange = "error"
    scopes: Scopes = field(default_factory=capture_scopes, init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntoRequest(IntoOptions):
    # What `Loader.load_into` takes.
    target: Any = field(kw_only=False, repr=False)
    uri: URI = field(kw_only=False, repr=False)
    observer: Observer | None = None

    def __post_init__(self) -> None:
        uri: object = self.uri
        if not isinstance(uri, str | bytes | os.PathLike):
            kind = type(uri).__name__
            raise TypeError(f"load_into() takes the target first, then a URI or path, not a {kind}")
        _check_mapping("storage_options", self.storage_options)


def several_uris(function: str, uris: Iterable[URI]) -> Iterable[URI]:
    """Return URIs, and refuse a single one, as its characters would be taken for several.

    Raises:
        TypeError: it is one.
    """
    if isinstance(uris, str | bytes | os.PathLike):
        raise TypeError(f"{function}() takes several URIs, as a list; of one, give a list of it")
    return uris


def _several(names: str | Collection[str]) -> Collection[str]:
    return (names,) if isinstance(names, str) else names


def _check_mapping(option: str, value: object) -> None:
    if not isinstance(value, Mapping | None):
        raise TypeError(f"{option} is a mapping with names as keys, not a {type(value).__name__}")


def not_applicable(function: str, option: str, what: str, form: str, *, uri: str) -> NotApplicable:
    """Return the error of an option that asks for what a file of this format cannot give."""
    return NotApplicable(
        f"is of format {form}; {option}= of {function}() is for {what}. Leave it out.", uri=uri
    )


def check_priority(priority: str) -> None:
    """Raise `ValueError` if a load cannot have this priority."""
    if priority not in get_args(Priority):
        raise ValueError(f"priority is 'demand' or 'background', not {priority!r}")
