"""Parts of a graph as functions: from tensors that are fed to those that are fetched.

What keeps state is no part of a function, but an input of it: a variable, a table. So functions
that are called apart share it, and variables share the memory that was read.

Variables of TensorFlow 1 are references: operations take the variable itself and read it when
they run. Each such operation gets a read of its own, which waits for all that the operation
waits for; and what assigns becomes what assigns to the handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorflow.core.framework import attr_value_pb2, node_def_pb2, op_def_pb2

from asyncload.formats.protobuf import Wire, encoded

from . import CannotBuildFast
from ._graph import CONSTANT, REFERENCES, RESOURCE, Graph, GraphNode, Input
from ._turn import with_rests

__all__ = ["Cut", "cut"]

_ASSIGNS = {
    "Assign": "AssignVariableOp",
    "AssignAdd": "AssignAddVariableOp",
    "AssignSub": "AssignSubVariableOp",
}
_NEEDS_FEED = frozenset({"Placeholder", "PlaceholderV2"})
_WAITS_FOR_ONE = frozenset({"Merge"})
# Of a node, but not of a function's: other nodes are named in it, which may not be there.
_COLOCATION = "_class"
_INPUT = "asyncload_input"  # and a number: names of a function's inputs

# Fields of FunctionDef (tensorflow/core/framework/function.proto), and of an entry of its maps.
_SIGNATURE, _NODE, _RESULTS, _CONTROL_RESULTS = 1, 3, 4, 6
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a graph as a function.

    Attributes:
        fields: (number, content) of its ``FunctionDef``.
        captured: nodes that it takes as inputs, after what is fed.
        operations: kinds of the nodes in it.
    """

    fields: list[tuple[int, memoryview]]
    captured: list[str]
    operations: frozenset[str]


def cut(
    graph: Graph,
    name: str,
    *,
    feeds: Sequence[Input] = (),
    fetches: Sequence[Input] = (),
    targets: Sequence[str] = (),
    keeps_state: Callable[[GraphNode], bool],
) -> Cut:
    """Cut a function out of a graph.

    Args:
        graph: where from.
        name: of the function.
        feeds: tensors that are its inputs.
        fetches: tensors that are its outputs.
        targets: nodes that have to run.
        keeps_state: whether a node stays outside, and is an input.

    Raises:
        CannotBuildFast: it takes a placeholder that is not fed, changes a variable in a way that
            is not known here, or has an operation that nobody has registered.
        Corrupt: it refers to what the graph does not have.
    """
    cutting = _Cutting(graph, feeds, keeps_state)
    cutting.collect([*fetches], [*targets])
    return cutting.finish(name, fetches, targets)


@dataclass
class _Cutting:
    """One function on its way; see `cut`."""

    graph: Graph
    feeds: Sequence[Input]
    keeps_state: Callable[[GraphNode], bool]
    _nodes: dict[str, GraphNode] = field(default_factory=dict)
    _captured: dict[str, str] = field(default_factory=dict)  # and the names of their inputs
    _made: list[Wire] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fed = {tensor: f"{_INPUT}_{n}" for n, tensor in enumerate(self.feeds)}
        # Placeholders have one output: fed, nothing of them is left.
        self._unneeded = {
            node for node, _ in self.feeds if len(self.graph.outputs(self.graph[node])) == 1
        }

    def collect(self, fetches: list[Input], targets: list[str]) -> None:
        """Find the nodes that are needed for tensors and other nodes."""
        waiting = [*self._not_fed(fetches), *targets]
        while waiting:
            name = waiting.pop()
            if name in self._nodes or name in self._captured or name in self._unneeded:
                continue
            node = self.graph[name]
            if self.keeps_state(node):
                self._captured[name] = f"{_INPUT}_{len(self.feeds) + len(self._captured)}"
                continue
            if node.op in _NEEDS_FEED:
                raise CannotBuildFast(f"a signature needs a value of {name!r}, which is no input")
            self._nodes[name] = node
            waiting.extend(self._not_fed(node.inputs))
            waiting.extend(node.controls)

    def _not_fed(self, tensors: Sequence[Input]) -> Iterator[str]:
        return (tensor[0] for tensor in tensors if tensor not in self._fed)

    # --- nodes -----------------------------------------------------------------------------

    def finish(self, name: str, fetches: Sequence[Input], targets: Sequence[str]) -> Cut:
        """Return the function, once `collect` has found what is in it."""
        for node in with_rests(self._nodes.values()):
            self._add(node)
        signature = op_def_pb2.OpDef(name=name)
        for tensor, argument in self._fed.items():
            signature.input_arg.add(name=argument, type=self.graph.output(tensor)[1])
        for argument in self._captured.values():
            signature.input_arg.add(name=argument, type=RESOURCE)
        results, controls = [], []
        for number, tensor in enumerate(fetches):
            output = f"result_{number}"
            signature.output_arg.add(name=output, type=self.graph.output(tensor)[1])
            results.append((output, self._reference(tensor, reader=None)))
        for number, target in enumerate(each for each in targets if each in self._nodes):
            signature.control_output.append(f"control_{number}")
            controls.append((f"control_{number}", target))
        pieces: list[tuple[int, Wire]] = [(_SIGNATURE, signature.SerializeToString())]
        pieces += [(_NODE, node) for node in self._made]
        pieces += [(_RESULTS, _entry(*each)) for each in results]
        pieces += [(_CONTROL_RESULTS, _entry(*each)) for each in controls]
        return Cut(
            [(number, memoryview(content)) for number, content in pieces],
            list(self._captured),
            frozenset(node.op for node in self._nodes.values()),
        )

    def _add(self, node: GraphNode) -> None:
        if node.op == CONSTANT and not (node.controls or _COLOCATION in node.attributes):
            self._made.append(node.stored)  # as it is: it may be large
            return
        made = node_def_pb2.NodeDef(name=node.name, op=node.op, device=node.device)
        takes = list(self.graph.takes_references(node))
        for index, tensor in enumerate(node.inputs):
            if index < len(takes) and takes[index] and not self.graph.is_named(tensor):
                made.op = self._changing(node, index)
                made.input.append(self._captured[self._changed(node, tensor)])
            else:
                made.input.append(self._reference(tensor, reader=node))
        made.input.extend(f"^{each}" for each in node.controls if each in self._nodes)
        for key, value in self._attributes(node, made.op):
            made.attr[key].MergeFromString(value)
        if made.op == node.op:
            self._add_defaults(node, made)
        self._made.append(made.SerializeToString())

    def _changing(self, node: GraphNode, index: int) -> str:
        if index or node.op not in _ASSIGNS:
            raise CannotBuildFast(f"{node.op} changes a variable in a way that is not known here")
        return _ASSIGNS[node.op]

    def _changed(self, node: GraphNode, tensor: Input) -> str:
        variable = self._variable(tensor)
        if variable is None:
            raise CannotBuildFast(f"{node.name!r} changes what is no variable")
        return variable

    def _attributes(self, node: GraphNode, op: str) -> Iterator[tuple[str, bytes]]:
        if op == node.op:
            yield from (
                (key, value) for key, value in node.attributes.items() if key != _COLOCATION
            )
            return
        yield "dtype", node.attributes.get("T", b"")
        if node.op == "Assign" and "validate_shape" in node.attributes:
            yield "validate_shape", node.attributes["validate_shape"]

    def _add_defaults(self, node: GraphNode, made: Any) -> None:
        """Add attributes that came into being after the graph was written, or were stripped."""
        for attribute in self.graph.declared(node).attr:
            if attribute.HasField("default_value") and attribute.name not in node.attributes:
                made.attr[attribute.name].CopyFrom(attribute.default_value)

    # --- tensors ---------------------------------------------------------------------------

    def _variable(self, tensor: Input) -> str | None:
        """Return the variable that a tensor refers to, if it does."""
        seen = set[str]()  # a chain of assignments may be a circle, in a file that is damaged
        while (name := tensor[0]) not in seen:
            seen.add(name)
            node = self.graph[name]
            if name in self._captured:
                return name if node.op in REFERENCES else None
            if node.op not in _ASSIGNS or not node.inputs:
                return None
            tensor = node.inputs[0]
        return None

    def _reference(self, tensor: Input, reader: GraphNode | None) -> str:
        """Return how a function refers to a tensor.

        Args:
            tensor: the one.
            reader: the node that takes it; ``None`` if it is a result.
        """
        if tensor in self._fed:
            return self._fed[tensor]
        variable = self._variable(tensor)
        if variable is not None:
            return self._read(variable, tensor, reader)
        if tensor[0] in self._captured:
            return self._captured[tensor[0]]
        port, _ = self.graph.output(tensor)
        return f"{tensor[0]}:{port}"

    def _read(self, variable: str, tensor: Input, reader: GraphNode | None) -> str:
        """Read a variable for one node, as late as that node itself would."""
        number = len(self._made)
        name = f"{reader.name if reader else 'result'}/read_{number}"
        while name in self.graph:
            name += "_"
        waits = {tensor[0]} | ({*reader.controls} if reader else set())
        if reader is not None and reader.op not in _WAITS_FOR_ONE:
            waits.update(self._not_fed(reader.inputs))
        made = node_def_pb2.NodeDef(name=name, op="ReadVariableOp")
        made.input.append(self._captured[variable])
        made.input.extend(f"^{each}" for each in sorted(waits) if each in self._nodes)
        dtype = self.graph[variable].attribute("dtype").type
        made.attr["dtype"].CopyFrom(attr_value_pb2.AttrValue(type=dtype))
        self._made.append(made.SerializeToString())
        return f"{name}:value:0"


def _entry(key: str, value: str) -> bytes:
    return b"".join([*encoded(_KEY, key.encode()), *encoded(_VALUE, value.encode())])
