"""What is remembered of signatures that are served from their own functions."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2

from asyncload.manifest import Manifest

from . import _private
from ._bound import Bound
from ._object_graph import GRAPH_DOCUMENT
from ._serving_functions import Functions
from ._serving_plan import CheckpointKeys, ServingPlan
from .served import Signatures
from .whole import SAVED_MODEL

__all__ = ["SignaturesBlueprint", "digest_of"]

Array = npt.NDArray[Any]
Names = Collection[str] | None

_LIMIT = 64 << 20  # bytes of assets that are compared
_NODE = 3  # the field of FunctionDef
# What a table is made by that nothing changes once it is initialised.
_FIXED_TABLE = frozenset({"HashTableV2", "Identity", "NoOp"})
_UNLIKE = "the two have different functions"


class Reading(Protocol):
    """A `SignaturesBuild`, as far as it has got.

    Attributes:
        chosen: the names of the signatures that are to be served; ``None`` for all.
        tags: of the graph that has them, as given.
        folder: the SavedModel's, where it is on this machine's disk.
        place: the device, and the prefix of names, that their variables get.
        plan: what they need; ``None`` if the whole object is made.
        keys: where the values are; known after `wanted`.
    """

    chosen: Names
    tags: Names
    folder: str | None

    @property
    def place(self) -> tuple[str, str]: ...
    @property
    def plan(self) -> ServingPlan | None: ...
    @property
    def keys(self) -> CheckpointKeys: ...
    def read(self, documents: Mapping[str, bytes]) -> None: ...
    def wanted(self, manifest: Manifest) -> tuple[Names, Names]: ...
    def register(self) -> _private.Library: ...
    def constants(self) -> Mapping[int, Any]: ...


def digest_of(content: bytes) -> bytes:
    """Return what tells contents apart."""
    return hashlib.sha256(content).digest()


def _wanted(build: Reading) -> tuple[set[str] | None, ...]:
    """Return what was asked for, in a form that compares."""
    return tuple(None if each is None else set(each) for each in (build.chosen, build.tags))


class SignaturesBlueprint:
    """A `Blueprint`.

    Args:
        served: the signatures.
        bound: what they are bound to.
        build: that made them.
        parts: their SavedModel.
        digests: of its ``saved_model.pb``, and of its checkpoint's object graph.
        assets: path below its folder -> bytes, where they are not on disk.
    """

    def __init__(
        self,
        served: Signatures,
        bound: Bound,
        build: Reading,
        parts: Functions,
        digests: tuple[bytes, bytes],
        assets: Mapping[str, bytes],
    ) -> None:
        self.served = weakref.ref(served)
        self.bound = bound
        self.keys = build.keys
        self.place = build.place
        self.chosen = _wanted(build)
        self.program, self.graph = digests
        self.problem = _problem(bound.plan, parts)
        self.assets: Mapping[str, bytes] = {}
        if self.problem is None:
            files = dict(_files(bound.plan, assets, build.folder, _LIMIT))
            self.assets = {name: digest_of(content) for name, content in files.items()}
            if len(files) < len(set(bound.plan.assets.values())):
                self.problem = f"its assets are missing, or more than {_LIMIT:,} bytes"

    def compare(self, build: Reading, documents: Mapping[str, bytes]) -> _Match | str:
        """See `Blueprint`."""
        if SAVED_MODEL not in documents:
            return "what is loaded is another kind of model"
        if build.place != self.place:
            return "it was loaded within another tf.device or tf.name_scope"
        if _wanted(build) == self.chosen and digest_of(documents[SAVED_MODEL]) == self.program:
            return _Match(self, build, documents, None)
        build.read(documents)
        numbers = _pair(self.bound.plan, build.plan)
        return numbers if isinstance(numbers, str) else _Match(self, build, documents, numbers)

    def empty(self) -> None:
        """See `Blueprint`."""
        self.bound.empty()


class _Match:
    """See `Match`.

    Args:
        blueprint: of the signatures that are there.
        build: of those that are loaded; it has read the documents, if these differ.
        documents: of those.
        numbers: node of the one -> node of the other; ``None`` if the documents are the same.
    """

    def __init__(
        self,
        blueprint: SignaturesBlueprint,
        build: Reading,
        documents: Mapping[str, bytes],
        numbers: Mapping[int, int] | None,
    ) -> None:
        self._blueprint = blueprint
        self._build = build
        self._documents = documents
        self._numbers = numbers
        self._keys: CheckpointKeys | None = None

    def wanted(self, manifest: Manifest) -> tuple[Names, Names]:
        """See `Match`."""
        blueprint, build = self._blueprint, self._build
        graph = manifest.documents.get(GRAPH_DOCUMENT, b"")
        if self._numbers is None and digest_of(graph) == blueprint.graph:
            self._keys = blueprint.keys
            assets = () if build.folder is not None else blueprint.assets
            return self._keys.all(), {f"assets/{name}" for name in assets}
        if self._numbers is None:
            build.read(self._documents)
        names = build.wanted(manifest)
        if build.plan is not None:
            same = self._numbers
            numbers = same or {number: number for number in build.keys.variables}
            keys = {mine: build.keys.variables[its] for mine, its in numbers.items()}
            self._keys = CheckpointKeys(keys, {})
        return names

    def construct(self) -> str | None:
        """See `Match`."""
        build, mine = self._build, self._blueprint.bound
        if self._numbers is None or build.plan is None:
            return None
        names = build.register().names
        for name, bare in build.plan.signatures.items():
            own = mine.plan.signatures[name].concrete_function_name
            if names[bare.concrete_function_name] != mine.library.names[own]:
                return _UNLIKE
        constants = build.constants()
        captured = _captured(mine.plan), _captured(build.plan)
        for one, other in zip(*captured, strict=True):
            if other in constants and not _same_tensor(mine.tensor(one), constants[other]):
                return "the two have different constants"
        return None

    def misfit(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> str | None:
        """See `Match`."""
        del arrays  # where they do not fit, that is an error of the files
        if self._keys is None:
            return "it needs its whole object"
        bound = self._blueprint.bound
        files = dict(_files(bound.plan, assets, self._build.folder, _LIMIT))
        if {name: digest_of(content) for name, content in files.items()} != self._blueprint.assets:
            return "the two have different assets (vocabularies)"
        return None

    def rebind(self, arrays: Mapping[str, Array], *, uri: str) -> None:
        """See `Match`."""
        served, keys = self._blueprint.served(), self._keys
        if served is None or keys is None:
            raise RuntimeError("there is nothing to give values to")
        self._blueprint.bound.exchange(arrays, keys, uri=uri)
        served.uri = uri


def _problem(plan: ServingPlan, parts: Functions) -> str | None:
    """Say what signatures need that may be changed by a call, or is elsewhere later."""
    if plan.assets.keys() & set(_captured(plan)):
        return "its functions read files"
    if plan.keys is not None and plan.keys.parts:
        return "its variables are parts of tensors"
    if plan.startup is not None:
        return "it is initialised by operations of its own"
    for resource in plan.resources.values():
        operations = set(_operations(parts, resource.create))
        if resource.restore is not None or not operations <= _FIXED_TABLE:
            return "it has tables, or other resources, that its functions may change"
    return None


def _operations(parts: Functions, function: str) -> Iterator[str]:
    for number, content in parts.function(function) or ():
        if number == _NODE:
            try:
                yield node_def_pb2.NodeDef.FromString(bytes(content)).op
            except DecodeError:  # `register` has said so, if it matters
                yield ""


def _captured(plan: ServingPlan) -> list[int]:
    """Return the nodes that signatures are bound to, in the order of their names."""
    functions = (plan.signatures[name].concrete_function_name for name in sorted(plan.signatures))
    return [number for name in functions for number in plan.concrete[name].bound_inputs]


def _pair(one: ServingPlan, other: ServingPlan | None) -> dict[int, int] | str:
    """Pair the variables of two programs, which differ at least in how they name functions.

    Returns:
        Node of the one -> node of the other; or how they differ.
    """
    if other is None:
        return "it needs its whole object"
    if one.resources or one.assets or other.resources or other.assets:
        return "the two have tables or assets, and are not of one export"
    if one.signatures.keys() != other.signatures.keys():
        return "the two have different signatures"
    for name, bare in one.signatures.items():
        if _form(one, bare) != _form(other, other.signatures[name]):
            return f"the two have different signatures {name!r}"
    captured = _captured(one), _captured(other)
    if len(captured[0]) != len(captured[1]):
        return _UNLIKE
    pairs = dict(zip(*captured, strict=True))
    if len(set(pairs.values())) != len(pairs) or [pairs[n] for n in captured[0]] != captured[1]:
        return "the two share variables in different ways"
    if any(_kind(one, mine) != _kind(other, its) for mine, its in pairs.items()):
        return "the two have different variables"
    return {mine: its for mine, its in pairs.items() if mine in one.variables}


def _form(plan: ServingPlan, bare: Any) -> tuple[Any, ...]:
    concrete = plan.concrete[bare.concrete_function_name]
    return (
        list(bare.argument_keywords),
        concrete.canonicalized_input_signature.SerializeToString(deterministic=True),
        concrete.output_signature.SerializeToString(deterministic=True),
    )


def _kind(plan: ServingPlan, number: int) -> Any:
    variable = plan.variables.get(number)
    return variable and (variable.dtype, variable.shape.SerializeToString(deterministic=True))


def _same_tensor(one: Any, other: Any) -> bool:
    left, right = one.numpy(), other.numpy()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if getattr(left, "dtype", np.dtype(object)).hasobject:
        return bool(np.array_equal(left, right))
    return bool(left.tobytes() == right.tobytes())


def _files(
    plan: ServingPlan, assets: Mapping[str, bytes], folder: str | None, limit: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of assets, ``limit`` bytes in all."""
    for name in sorted(set(plan.assets.values())):
        path = None if folder is None else Path(folder, "assets", name)
        given = assets.get(f"assets/{name}", b"")
        try:
            limit -= len(given) if path is None else path.stat().st_size
            if limit < 0:
                return
            yield name, given if path is None else path.read_bytes()
        except OSError:  # missing: whoever needs it says so
            continue
