"""Decides what serving some signatures of a graph needs: functions, variables, tables. Pure.

What it makes is the `ServingPlan` that an object graph gives, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_object_graph_pb2, struct_pb2

from . import CannotBuildFast, _private
from ._graph import CONSTANT, REFERENCES, RESOURCE, Graph, GraphNode, Input, tensor_of
from ._graph_functions import cut
from ._graph_model import GraphModel
from ._saved_model import SharedName, shared_names
from ._serving_plan import CheckpointKeys, Resource, ServingPlan

__all__ = ["plan_graph"]

_VARIABLES = REFERENCES | {"VarHandleOp"}
_RESTORES = "RestoreV2"
_FILLS_VARIABLE = frozenset({"Assign", "AssignVariableOp"})
_FILLS_TABLE = "LookupTableImportV2"
_IDLE = frozenset({"NoOp"})


def plan_graph(model: GraphModel, names: Sequence[str]) -> ServingPlan:
    """Plan for the signatures of these names, which there are.

    Raises:
        CannotBuildFast: they need something that is not known here.
        Corrupt: the graph contradicts itself.
    """
    planning = _Planning(model)
    definitions = model.signatures()
    for number, name in enumerate(names):
        planning.add_signature(f"signature_{number}", name, definitions[name])
    planning.add_startup(model.initialisers())
    planning.add_resources()
    return planning.finish()


# --- what a signature takes and gives --------------------------------------------------------


def _components(info: Any) -> list[str]:
    """Return the names of the tensors that make up an input or output."""
    match info.WhichOneof("encoding"):
        case "name":
            return [info.name]
        case "coo_sparse":
            sparse = info.coo_sparse
            return [
                sparse.indices_tensor_name,
                sparse.values_tensor_name,
                sparse.dense_shape_tensor_name,
            ]
        case "composite_tensor":
            return [component.name for component in info.composite_tensor.components]
        case kind:
            raise CannotBuildFast(f"a signature has an input or output of the kind {kind}")


def _inputs(graph: Graph, definition: Any) -> Iterator[tuple[str, Input, tf.TensorSpec]]:
    """Yield the name, tensor and spec of each input, as ``tf.saved_model.load`` has them."""
    for key, info in sorted(definition.inputs.items()):
        tensors = [tensor_of(name) for name in _components(info)]
        endings = [""] if info.WhichOneof("encoding") == "name" else _endings(info, len(tensors))
        for tensor, ending in zip(tensors, endings, strict=True):
            name = key + ending
            dtype = graph.output(tensor)[1]
            given = graph[tensor[0]].attribute("_user_specified_name").s.decode()
            spec = tf.TensorSpec(
                _shape(graph.shape(tensor)), dtype, given or _private.input_name(name)
            )
            yield name, tensor, spec


def _endings(info: Any, count: int) -> list[str]:
    if info.WhichOneof("encoding") == "coo_sparse":
        return ["_indices", "_values", "_dense_shape"]
    return [f"_component_{number}" for number in range(count)]


def _output(graph: Graph, key: str, info: Any) -> tf.TypeSpec | None:
    """Return the spec of an output; ``None`` for an operation, which has no value."""
    match info.WhichOneof("encoding"):
        case "name" if ":" not in info.name:
            return None
        case "name":
            tensor = tensor_of(info.name)
            shape = _shape(graph.shape(tensor)).merge_with(_shape(info.tensor_shape))
            return tf.TensorSpec(shape, graph.output(tensor)[1], key)
        case "coo_sparse":
            return tf.SparseTensorSpec(_shape(info.tensor_shape), info.dtype)
        case _:
            spec = struct_pb2.StructuredValue(type_spec_value=info.composite_tensor.type_spec)
            return _private.decode_structure(spec)


def _shape(proto: Any) -> tf.TensorShape:
    return tf.TensorShape(None) if proto is None else tf.TensorShape(proto)


# --- what the checkpoint holds ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Restored:
    """How the saver fills a variable or a table.

    Attributes:
        node: the operation that does.
        values: the tensors of the checkpoint's values that it takes.
        keys: their names in the checkpoint.
        parts: which part of each it takes, as `_part` reads it.
    """

    node: GraphNode
    values: tuple[Input, ...]
    keys: tuple[str, ...]
    parts: tuple[tuple[slice, ...], ...]


def _restored(model: GraphModel) -> dict[str, _Restored | None]:
    """Return how each node that keeps state is filled; ``None`` if not in a way known here."""
    graph, found = model.graph, dict[str, _Restored | None]()
    waiting = [model.restores] if model.restores else []
    seen = set(waiting)
    while waiting:
        node = graph[waiting.pop()]
        new = [name for name in node.controls if name not in seen]
        seen.update(new)
        waiting.extend(new)
        if node.inputs:
            holder, *values = node.inputs
            known = holder[0] not in found
            found[holder[0]] = _filled(graph, node, values) if known else None
    return found


def _filled(graph: Graph, node: GraphNode, values: list[Input]) -> _Restored | None:
    if node.op not in _FILLS_VARIABLE and node.op != _FILLS_TABLE:
        return None
    sources = tuple(_through_identities(graph, value) for value in values)
    read = [found for source in sources if (found := _read(graph, source)) is not None]
    if not read or len(read) < len(sources):
        return None
    keys, parts = zip(*read, strict=True)
    if node.op == _FILLS_TABLE and any(parts):
        return None
    return _Restored(node, sources, keys, parts)


def _through_identities(graph: Graph, tensor: Input) -> Input:
    seen = set[str]()
    while (node := graph[tensor[0]]).op == "Identity" and node.inputs and node.name not in seen:
        seen.add(node.name)
        tensor = node.inputs[0]
    return tensor


def _read(graph: Graph, tensor: Input) -> tuple[str, tuple[slice, ...]] | None:
    """Return the key of a tensor that is read from the checkpoint, and which part of it is."""
    reads = graph[tensor[0]]
    if reads.op != _RESTORES or len(reads.inputs) != 3:
        return None
    _, names, slices = (graph[source] for source, _ in reads.inputs)
    if {names.op, slices.op} != {CONSTANT}:
        return None
    listed = tf.make_ndarray(names.attribute("value").tensor).ravel()
    parts = tf.make_ndarray(slices.attribute("value").tensor).ravel()
    if tensor[1] >= min(len(listed), len(parts)):
        return None
    return listed[tensor[1]].decode(), _part(parts[tensor[1]].decode())


def _part(text: str) -> tuple[slice, ...]:
    """Return what ``"6 2 0,3:-"`` says: the first 3 of 6 rows, all of 2 columns; empty for all.

    (tensorflow/core/framework/tensor_slice.h)
    """
    part = []
    for axis in text.rpartition(" ")[2].split(":") if text else ():
        start, comma, length = axis.partition(",")
        part.append(slice(int(start), int(start) + int(length)) if comma else slice(None))
    return tuple(part)


# --- the plan --------------------------------------------------------------------------------


class _Planning:
    """A plan on its way."""

    def __init__(self, model: GraphModel) -> None:
        self._model = model
        self._graph = model.graph
        self._plan = ServingPlan({})
        self._restored = _restored(model)
        self._numbers: dict[str, int] = {}  # of nodes that keep state
        self._waiting: list[str] = []
        self._variables: dict[int, str] = {}
        self._tables: dict[int, tuple[str, ...]] = {}
        self._parts: dict[int, tuple[slice, ...]] = {}

    def add_signature(self, function: str, name: str, definition: Any) -> None:
        """Take a signature into the plan, as a function of that name."""
        inputs = list(_inputs(self._graph, definition))
        outputs = dict(sorted(definition.outputs.items()))
        specs = {key: _output(self._graph, key, info) for key, info in outputs.items()}
        results = [
            tensor_of(each)
            for key, info in outputs.items()
            for each in _components(info)
            if specs[key] is not None
        ]
        operations = [info.name for key, info in outputs.items() if specs[key] is None]
        concrete = self._cut(
            function,
            feeds=[tensor for _, tensor, _ in inputs],
            fetches=results,
            targets=operations,
        )
        taken = {keyword: spec for keyword, _, spec in inputs}
        concrete.canonicalized_input_signature.CopyFrom(_private.encode_structure(((), taken)))
        concrete.output_signature.CopyFrom(_private.encode_structure(specs))
        self._plan.signatures[name] = saved_object_graph_pb2.SavedBareConcreteFunction(
            concrete_function_name=function, argument_keywords=list(taken)
        )

    def add_startup(self, operations: list[str]) -> None:
        """Take the operations that initialise the model into the plan, if they do anything."""
        assets = self._model.assets
        numbers = []
        for (node, output), file in assets.items():
            numbers.append(self._number(f"{node}:{output}"))
            self._plan.assets[numbers[-1]] = file
        self._cut("startup", feeds=list(assets), targets=operations, bound=numbers)
        if self._model.cuts["startup"].operations <= _IDLE:
            del self._plan.concrete["startup"], self._model.cuts["startup"]
            self._plan.assets.clear()
        else:
            self._plan.startup = "startup"

    def add_resources(self) -> None:
        """Take in what keeps state, until nothing is missing."""
        while self._waiting:
            node = self._graph[self._waiting.pop()]
            if node.op in _VARIABLES:
                self._add_variable(node)
            else:
                self._add_table(node)

    def finish(self) -> ServingPlan:
        """Return the plan.

        Raises:
            CannotBuildFast: two nodes, or functions besides, share a resource by its name.
        """
        names = [_shared_name(self._graph[name]) for name in self._numbers if name in self._graph]
        inside = {
            name
            for function in self._graph.functions.values()
            for name in shared_names(function, uri=self._model.uri)
        }
        if len(set(names)) < len(names) or inside & set(names):
            raise CannotBuildFast("it has resources that are shared by name")
        self._plan.keys = CheckpointKeys(self._variables, self._tables, self._parts)
        return self._plan

    def _cut(
        self,
        function: str,
        *,
        feeds: Sequence[Input] = (),
        fetches: Sequence[Input] = (),
        targets: Sequence[str] = (),
        bound: Sequence[int] = (),
        inside: str | None = None,
    ) -> Any:
        made = self._model.cuts[function] = cut(
            self._graph,
            function,
            feeds=feeds,
            fetches=fetches,
            targets=targets,
            keeps_state=lambda node: node.name != inside and _keeps_state(self._graph, node),
        )
        concrete = self._plan.concrete[function] = saved_object_graph_pb2.SavedConcreteFunction(
            bound_inputs=[*bound, *(self._number(name) for name in made.captured)]
        )
        return concrete

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers)
            if name in self._graph:
                self._waiting.append(name)
        return self._numbers[name]

    def _filler(self, node: GraphNode) -> _Restored | None:
        """Return how the saver fills a node; ``None`` if it does not."""
        filler = self._restored.get(node.name)
        if filler is None and node.name in self._restored:
            raise CannotBuildFast(f"its saver restores {node.name!r} in a way that is not known")
        return filler

    def _add_variable(self, node: GraphNode) -> None:
        number = self._numbers[node.name]
        self._plan.variables[number] = saved_object_graph_pb2.SavedVariable(
            dtype=node.attribute("dtype").type,
            shape=node.attribute("shape").shape,
            name=node.name,
        )
        if (filler := self._filler(node)) is not None:
            if len(filler.keys) != 1:
                raise CannotBuildFast(f"its saver restores {node.name!r} from several values")
            self._variables[number] = filler.keys[0]
            if filler.parts[0]:
                self._parts[number] = filler.parts[0]

    def _add_table(self, node: GraphNode) -> None:
        number = self._numbers[node.name]
        create = f"create_{number}"
        self._cut(create, fetches=[(node.name, 0)], inside=node.name)
        restore = None
        if (filler := self._filler(node)) is not None:
            restore = f"restore_{number}"
            self._cut(restore, feeds=filler.values, targets=[filler.node.name])
            self._tables[number] = filler.keys
        self._plan.resources[number] = Resource(node.device, create, None, restore)


def _keeps_state(graph: Graph, node: GraphNode) -> bool:
    """Whether a node is a variable, or another resource that functions share."""
    if node.op in REFERENCES:
        return True
    declared = graph.declared(node)
    named = any(attribute.name == "shared_name" for attribute in declared.attr)
    return named and [dtype for _, dtype in graph.outputs(node)] == [RESOURCE]


def _shared_name(node: GraphNode) -> SharedName:
    given = node.attribute("shared_name").s.decode() or node.name
    return node.attribute("container").s.decode(), given
