"""What is remembered of a Keras model that was built here."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from asyncload.manifest import Manifest

from . import _private
from ._config import parse_config
from ._turn import rest_in_turn

__all__ = ["CONFIG", "KerasBlueprint", "Recipe"]

Array = npt.NDArray[Any]

CONFIG = "config.json"
_REMEMBERED = 8  # configs that say the same, the last ones: comparing takes long


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What Keras makes a model of, its weights and assets aside.

    Attributes:
        text: its ``config.json``, or the documents of a legacy file.
        compiled: whether what that says of its compilation is followed.
        safe_mode: whether what could run code was refused.
        custom_objects: name -> class or function, as the caller gave them.
        named: every name in the config that could be of an object of the caller's own -> that, or
            ``None``.
        settings: of Keras.
    """

    text: bytes
    compiled: bool
    safe_mode: bool
    custom_objects: Mapping[str, Any]
    named: Mapping[str, Any]
    settings: tuple[Any, ...]


@runtime_checkable
class Describing(Protocol):
    """A `KerasBuild`."""

    def describe(self, documents: Mapping[str, bytes]) -> bytes | None: ...
    def recipe(self, text: bytes, names: Collection[str]) -> Recipe: ...


def _is_legacy(text: bytes) -> bool:
    return b"\0" in text  # between the documents of a legacy file; JSON has none


class KerasBlueprint:
    """A `Blueprint`, and a `Match` of it.

    Args:
        recipe: what the model was made of.
        state: where its values are.
        assets: that it was loaded with.
        uri: for messages.
    """

    def __init__(
        self, recipe: Recipe, state: _private.KerasState, assets: Mapping[str, bytes], uri: str
    ) -> None:
        self._recipe = recipe
        self._state = state
        self._assets = _digests(assets)
        self._uri = uri
        self._alike: deque[bytes] = deque(maxlen=_REMEMBERED)
        self.problem = state.problem

    def compare(self, build: Any, documents: Mapping[str, bytes]) -> KerasBlueprint | str:
        """See `Blueprint`."""
        is_keras = isinstance(build, Describing)
        text = build.describe(documents) if is_keras else None
        if text is None or _is_legacy(text) != _is_legacy(self._recipe.text):
            return "what is loaded is another kind of model"
        mine, other = self._recipe, build.recipe(text, self._recipe.named)
        for field, name in _NAMES.items():
            if not _same(getattr(mine, field), getattr(other, field)):
                return f"it was loaded with other {name}"
        if not self._same_but_for_values(text):
            return "the two have different configs"
        return self._state.changed() or self

    def _same_but_for_values(self, text: bytes) -> bool:
        """Whether another config says the same, but for what is not followed or comes later."""
        if text == self._recipe.text:
            return True
        if not self._alike:
            self._alike.append(_digest(self._recipe.text))
        digest = _digest(text)
        if digest not in self._alike:
            if not self._compares_the_same(text):
                return False
            self._alike.append(digest)
        return True

    def _compares_the_same(self, text: bytes) -> bool:
        if _is_legacy(text):
            return False
        one, other = (parse_config(each, CONFIG, self._uri) for each in (self._recipe.text, text))
        without = _without_rate if self._state.has_rate else _as_it_is
        if not self._recipe.compiled:
            without = _without_compilation
        comparison = _Comparison()
        return comparison.same(without(one), without(other)) and comparison.one_to_one

    def wanted(self, manifest: Manifest) -> tuple[None, None]:
        """Say that the model needs all of its file."""
        del manifest
        return None, None

    def construct(self) -> None:
        """Compare nothing more."""

    def misfit(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> str | None:
        """See `Match`."""
        if _digests(assets) != self._assets:
            return "the two have different assets (vocabularies)"
        return self._state.misfit(arrays)

    def rebind(self, arrays: Mapping[str, Array], *, uri: str) -> None:
        """See `Match`."""
        self._state.rebind(arrays)
        self._uri = uri

    def empty(self) -> None:
        """See `Blueprint`."""
        self._state.empty()


_NAMES = {
    "compiled": "compile=",
    "safe_mode": "safe_mode=",
    "custom_objects": "custom_objects=",
    "named": "classes by the same names",
    "settings": "settings of Keras",
}


_Config = Mapping[str, Any]


def _as_it_is(config: _Config) -> _Config:
    return config


def _without_compilation(config: _Config) -> _Config:
    return {**config, "compile_config": None}


def _without_rate(config: _Config) -> _Config:
    """Return a config without the learning rate, where that is but a number."""
    match config:
        case {"compile_config": {"optimizer": {"config": {}} as optimizer} as compilation}:
            changed = {**compilation, "optimizer": _constant_rate_removed(optimizer)}
            return {**config, "compile_config": changed}
    return config


def _constant_rate_removed(optimizer: _Config) -> _Config:
    match optimizer["config"]:
        case {"inner_optimizer": {"config": {}} as inner} as settings:
            settings = {**settings, "inner_optimizer": _constant_rate_removed(inner)}
        case {"learning_rate": float()} as settings:
            settings = {**settings, "learning_rate": None}
        case settings:
            pass
    return {**optimizer, "config": settings}


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Mapping):
        return bool(one == other)
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


# Keras marks objects that stand in several places by their address in the process that saved them.
_SHARED = "shared_object_id"
_ADDRESS = re.compile(rb'"shared_object_id": (\d+)')


def _digest(text: bytes) -> bytes:
    """Return a digest of a config in which shared objects are numbered as they come."""
    numbers: dict[bytes, bytes] = {}

    def number(match: re.Match[bytes]) -> bytes:
        return b'"shared_object_id": %s' % numbers.setdefault(match[1], b"%d" % len(numbers))

    return hashlib.sha256(_ADDRESS.sub(number, text)).digest()


def _is_policy(node: Mapping[str, Any]) -> bool:
    """Whether it stands for a dtype policy: nothing changes one, so it may as well be two."""
    name = node.get("class_name")
    return node.get("module") == "keras" and isinstance(name, str) and name.endswith("DTypePolicy")


class _Comparison:
    """Whether two parsed JSON texts describe the same objects, to the type of each number."""

    def __init__(self) -> None:
        self._same: dict[int, int] = {}  # an object that is shared in one -> that in the other

    def same(self, one: Any, other: Any) -> bool:
        """Compare, in the order of the texts."""
        if type(one) is not type(other):
            return False
        if isinstance(one, dict):
            return self._same_nodes(one, other)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(self.same, one, other))
        return bool(one == other)

    def _same_nodes(self, one: _Config, other: _Config) -> bool:
        rest_in_turn()
        if _is_policy(one):
            one, other = ({k: v for k, v in each.items() if k != _SHARED} for each in (one, other))
        if list(one) != list(other):
            return False
        if _SHARED in one:
            mine, its = one[_SHARED], other[_SHARED]
            if self._same.setdefault(mine, its) != its:
                return False
        return all(self.same(one[key], other[key]) for key in one if key != _SHARED)

    @property
    def one_to_one(self) -> bool:
        """Whether nothing that is shared in the other stands for two things in the one."""
        return len(set(self._same.values())) == len(self._same)


def _digests(assets: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: hashlib.sha256(content).digest() for name, content in assets.items()}
