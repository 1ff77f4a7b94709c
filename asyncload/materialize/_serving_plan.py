"""Decides what serving some signatures of a SavedModel needs: objects, functions, tensors. Pure.

A signature is a function with bound inputs; each of them is an object of the graph: a variable, a
constant, the path of an asset, or a resource such as a table, which is made and initialised by
functions that have bound inputs of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from tensorflow.core.protobuf import trackable_object_graph_pb2

from asyncload.errors import Corrupt
from asyncload.formats.protobuf import as_view, fields

from . import CannotBuildFast
from ._messages import parse
from ._saved_model import SavedModelParts, shared_names

__all__ = [
    "CheckpointKeys",
    "Resource",
    "ServingPlan",
    "check_present",
    "checkpoint_keys",
    "plan_serving",
]

Array = npt.NDArray[Any]

_CREATE, _INITIALISE = "_create_resource", "_initialize"
_LIFE = (_CREATE, _INITIALISE, "_destroy_resource")
_VALUE = "VARIABLE_VALUE"
_NODES = 1  # the field of TrackableObjectGraph
# What the tables of TensorFlow append to the key of their attribute: lookup_ops.py.
_TABLE_PARTS = ("-keys", "-values")


@dataclass(frozen=True, slots=True)
class Resource:
    """An object that functions make, initialise and, where the checkpoint has its state, restore.

    Attributes:
        device: where it is made; empty for anywhere.
        create: the function that returns its handle.
        initialise: the function to call once everything is restored.
        restore: the function that takes its tensors.
    """

    device: str
    create: str
    initialise: str | None
    restore: str | None


@dataclass(slots=True)
class ServingPlan:
    """What the chosen signatures need.

    Attributes:
        signatures: name -> its ``SavedBareConcreteFunction``.
        concrete: function name -> its ``SavedConcreteFunction``, of all that are called.
        variables: node -> its ``SavedVariable``.
        constants: node -> the name of its operation.
        assets: node -> the name of its file below ``assets/``.
        resources: node -> what it is.
        startup: the function to call once everything else has its value, if there is one.
        keys: where the state lies, if that is known without the checkpoint.
    """

    signatures: dict[str, Any]
    concrete: dict[str, Any] = field(default_factory=dict)
    variables: dict[int, Any] = field(default_factory=dict)
    constants: dict[int, str] = field(default_factory=dict)
    assets: dict[int, str] = field(default_factory=dict)
    resources: dict[int, Resource] = field(default_factory=dict)
    startup: str | None = None
    keys: CheckpointKeys | None = None

    @property
    def has_state(self) -> bool:
        """Whether the checkpoint has to have values for it."""
        return bool(self.variables) or any(each.restore for each in self.resources.values())


def plan_serving(parts: SavedModelParts, signatures: Collection[str]) -> ServingPlan:
    """Plan for the signatures of these names, which there are.

    Raises:
        CannotBuildFast: they need an object of a kind that is not known here.
        Corrupt: the graph contradicts itself.
    """
    known = parts.signatures()
    plan = ServingPlan({name: known[name] for name in signatures})
    waiting = [chosen.concrete_function_name for chosen in plan.signatures.values()]
    while waiting:
        name = waiting.pop()
        if name in plan.concrete:
            continue
        concrete = plan.concrete[name] = parts.concrete(name)
        for number in concrete.bound_inputs:
            waiting.extend(_add(parts, plan, number))
        if not waiting:
            waiting.extend(_add_reached_by_name(parts, plan))
    return plan


def _add_reached_by_name(parts: SavedModelParts, plan: ServingPlan) -> list[str]:
    """Take in resources that functions reach by the names that they share, and not as inputs."""
    resources = parts.resources()
    their_own = {name for number in resources for name in _own_functions(parts, number)}
    reached = {
        shared
        for name, function in parts.functions.items()
        if name not in their_own
        for shared in shared_names(function, uri=parts.uri)
    }
    wanted: list[str] = []
    for number in resources if reached else ():
        create = _function(parts, parts.child(number, _CREATE))
        function = None if create is None else parts.functions.get(create)
        if number in plan.resources or function is None:
            continue
        if reached & shared_names(function, uri=parts.uri):
            wanted.extend(_add(parts, plan, number))
    return wanted


def _own_functions(parts: SavedModelParts, number: int) -> Iterable[str]:
    """Return the functions that make, initialise and destroy a resource."""
    for child in parts.node(number).children:
        if child.local_name in _LIFE and (name := _function(parts, child.node_id)) is not None:
            yield name


def _add(parts: SavedModelParts, plan: ServingPlan, number: int) -> Iterable[str]:
    """Take an object into the plan; return the functions that it needs."""
    node = parts.node(number)
    match node.WhichOneof("kind"):
        case "variable" if not node.variable.experimental_distributed_variable_components:
            plan.variables[number] = node.variable
        case "constant":
            plan.constants[number] = node.constant.operation
        case "asset":
            plan.assets[number] = _asset(parts, node.asset.asset_file_def_index)
        case "resource" if number not in plan.resources:
            resource = plan.resources[number] = _resource(parts, number)
            wanted = (resource.create, resource.initialise, resource.restore)
            return [name for name in wanted if name is not None]
        case "resource":
            pass
        case kind:
            raise CannotBuildFast(f"a signature needs an object of a kind not known here: {kind}")
    return ()


def _asset(parts: SavedModelParts, index: int) -> str:
    if not 0 <= index < len(parts.assets):
        raise Corrupt(f"refers to asset {index} of {len(parts.assets)}", uri=parts.uri)
    return parts.assets[index]


def _resource(parts: SavedModelParts, number: int) -> Resource:
    node = parts.node(number)
    create = _function(parts, parts.child(number, _CREATE))
    if create is None:
        raise CannotBuildFast("a resource has no function that creates it")
    if node.registered_saver or len(node.saveable_objects) > 1:
        raise CannotBuildFast("a resource has a way of its own to be restored")
    restore = None
    for saveable in node.saveable_objects.values():
        restore = _function(parts, saveable.restore_function)
        if restore is None:
            raise CannotBuildFast("a resource has no function that restores it")
    initialise = _function(parts, parts.child(number, _INITIALISE))
    return Resource(node.resource.device, create, initialise, restore)


def _function(parts: SavedModelParts, number: int | None) -> str | None:
    """Return the name of the one function that a node stands for."""
    if number is None:
        return None
    node = parts.node(number)
    match node.WhichOneof("kind"):
        case "bare_concrete_function":
            return str(node.bare_concrete_function.concrete_function_name)
        case "function" if len(node.function.concrete_functions) == 1:
            return str(node.function.concrete_functions[0])
        case _:
            return None


@dataclass(frozen=True, slots=True)
class CheckpointKeys:
    """Where the state of a plan's objects lies in the checkpoint.

    Attributes:
        variables: node -> key.
        tables: node -> the keys of its tensors, as its restoring function takes them.
        parts: node -> which part of the tensor its value is, where it is not all.
    """

    variables: Mapping[int, str]
    tables: Mapping[int, tuple[str, ...]]
    parts: Mapping[int, tuple[slice, ...]] = field(default_factory=dict)

    def value(self, number: int, arrays: Mapping[str, Array]) -> Array:
        """Return the value of a variable, out of arrays by their keys."""
        array = arrays[self.variables[number]]
        return array[self.parts[number]] if number in self.parts else array

    def all(self) -> set[str]:
        """Return every key."""
        return {*self.variables.values(), *(key for keys in self.tables.values() for key in keys)}


def check_present(keys: CheckpointKeys, present: Collection[str], *, uri: str) -> None:
    """Make sure that the checkpoint has every key.

    Raises:
        Corrupt: one is missing.
    """
    missing = sorted(keys.all() - set(present))
    if missing and not present:
        raise Corrupt(_no_values(missing[0]), uri=uri)
    if missing:
        raise Corrupt(
            f"the checkpoint of the model has no {missing[0]!r}; copy all of the SavedModel's "
            "folder, or export the model again",
            uri=uri,
        )


def _no_values(variable: str) -> str:
    return (
        f"has no values of its variables, such as {variable!r}: variables/variables.index is "
        "missing, or may not be read; copy all of the SavedModel's folder"
    )


def checkpoint_keys(
    parts: SavedModelParts, plan: ServingPlan, object_graph: bytes, present: Collection[str]
) -> CheckpointKeys:
    """Find the checkpoint's keys for what a plan has to restore.

    Args:
        parts: the SavedModel.
        plan: what is needed of it.
        object_graph: of the checkpoint, a serialized ``TrackableObjectGraph``.
        present: the keys that the checkpoint has.

    Raises:
        Corrupt: the checkpoint has no state for a variable.
        CannotBuildFast: it has some for a resource, in a form that is not known here.
    """
    nodes = _Nodes(object_graph, parts.uri)
    restored = [number for number, found in plan.resources.items() if found.restore is not None]
    same = _walk(parts, nodes, {*plan.variables, *restored})
    variables = {}
    for number, variable in plan.variables.items():
        key = _attribute(nodes, same.get(number), _VALUE)
        if not present:
            raise Corrupt(_no_values(variable.name), uri=parts.uri)
        if key is None or key not in present:
            raise Corrupt(
                f"the checkpoint of the model has no value for variable {variable.name!r}; export "
                "the model again",
                uri=parts.uri,
            )
        variables[number] = key
    tables = {}
    for number in restored:
        key = _attribute(nodes, same.get(number), None)
        keys = tuple(f"{key}{part}" for part in _TABLE_PARTS)
        if key is None or any(each not in present for each in keys):
            raise CannotBuildFast("a resource has state in a form that is not known here")
        tables[number] = keys
    return CheckpointKeys(variables, tables)


class _Nodes:
    """The nodes of a ``TrackableObjectGraph``, each parsed when it is first asked for."""

    def __init__(self, object_graph: bytes, uri: str) -> None:
        self._uri = uri
        try:
            self._stored = [
                as_view(value) for number, _, value in fields(object_graph) if number == _NODES
            ]
        except Corrupt as error:
            error.uri = uri
            raise
        self._parsed: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, number: int) -> Any:
        node = self._parsed.get(number)
        if node is None:
            kind = trackable_object_graph_pb2.TrackableObjectGraph.TrackableObject
            node = self._parsed[number] = parse(kind, self._stored[number], uri=self._uri)
        return node


def _walk(parts: SavedModelParts, nodes: _Nodes, wanted: set[int]) -> dict[int, int]:
    """Match nodes of the object graph with those of the checkpoint's, by the names of children."""
    same = {0: 0} if nodes else {}
    missing = wanted - same.keys()
    queue = deque(same)
    while queue and missing:
        number = queue.popleft()
        names = {child.local_name: child.node_id for child in parts.node(number).children}
        if not names:
            continue
        for child in nodes[same[number]].children:
            mine = names.get(child.local_name)
            if mine is None or mine in same or not 0 <= child.node_id < len(nodes):
                continue
            same[mine] = child.node_id
            missing.discard(mine)
            queue.append(mine)
    return same


def _attribute(nodes: _Nodes, number: int | None, name: str | None) -> str | None:
    """Return the key of a node's attribute of that name, or of its only one."""
    attributes = [] if number is None else list(nodes[number].attributes)
    if name is None:
        return str(attributes[0].checkpoint_key) if len(attributes) == 1 else None
    for attribute in attributes:
        if attribute.name == name:
            return str(attribute.checkpoint_key)
    return None
