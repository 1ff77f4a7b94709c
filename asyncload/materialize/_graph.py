"""The graph of a SavedModel that TensorFlow 1 wrote: its nodes, and how they are wired.

Nodes are parsed when they are asked for. Attributes stay as they are on the wire, as those of a
frozen graph may be the weights.

(tensorflow/core/framework/graph.proto, node_def.proto, op_def.proto)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2

from asyncload.errors import Corrupt
from asyncload.formats.protobuf import BYTES, Wire, as_text, as_view, encoded, fields

from . import CannotBuildFast, _private
from ._messages import declare, parse
from ._saved_model import function_name
from ._turn import with_rests

__all__ = ["CONSTANT", "REFERENCES", "RESOURCE", "Graph", "GraphNode", "Input", "tensor_of"]

RESOURCE = types_pb2.DT_RESOURCE
CONSTANT = "Const"
REFERENCES = frozenset({"VariableV2", "Variable"})  # variables of TensorFlow 1
_REFERENCE = 100  # what is added to a dtype's number for a reference to it: DT_FLOAT_REF
_NODES, _LIBRARY = 1, 2  # fields of GraphDef
_FUNCTIONS = 1  # of FunctionDefLibrary
_NAME, _OPERATION = 1, 2  # of NodeDef
_LARGE = 64 << 10  # bytes

_MESSAGES = declare(
    "asyncload.graph",
    {
        "Node": {
            "name": (1, False, str),
            "op": (2, False, str),
            "input": (3, True, str),
            "device": (4, False, str),
            "attr": (5, True, "Attribute"),
        },
        "Attribute": {"key": (1, False, str), "value": (2, False, bytes)},
    },
)

Input = tuple[str, int]  # name of the node, and which of its outputs


def tensor_of(name: str) -> Input:
    """Return what a tensor's name says: ``x:1``, or ``x`` for the first output of ``x``."""
    node, colon, output = name.rpartition(":")
    return (node, int(output)) if colon and output.isdecimal() else (name, 0)


@dataclass(slots=True)
class GraphNode:
    """One node.

    Attributes:
        name, op, device: as they are.
        inputs: the tensors that it takes.
        controls: names of the nodes that it waits for.
        attributes: serialized ``AttrValue`` by name, without a constant's large value.
        stored: all of it.
    """

    name: str
    op: str
    device: str
    inputs: list[Input]
    controls: list[str]
    attributes: dict[str, bytes]
    stored: memoryview
    _parsed: dict[str, Any] = field(default_factory=dict, repr=False)

    def attribute(self, name: str) -> Any:
        """Return an ``AttrValue``; an empty one where there is none."""
        value = self._parsed.get(name)
        if value is None:
            if name not in self.attributes and self.op == CONSTANT:
                self.attributes.update(_attributes(parse(_MESSAGES["Node"], self.stored, uri="")))
            stored = self.attributes.get(name, b"")
            value = self._parsed[name] = attr_value_pb2.AttrValue.FromString(stored)
        return value


class Graph:
    """A ``GraphDef``.

    Args:
        content: its bytes.
        uri: for messages.

    Attributes:
        uri: the same.
        functions: the serialized ``FunctionDef`` of its library by name.

    Raises:
        Corrupt: it is damaged.
    """

    def __init__(self, content: Wire, uri: str) -> None:
        self.uri = uri
        self.functions: dict[str, memoryview] = {}
        self._stored: dict[str, memoryview] = {}
        self._nodes: dict[str, GraphNode] = {}
        self._signatures: dict[str, Any] = {}
        for number, wire, value in with_rests(fields(content)):
            if number == _NODES and wire == BYTES:
                self._stored[_name_of(as_view(value))] = as_view(value)
            elif number == _LIBRARY and wire == BYTES:
                self._add_functions(as_view(value))

    def _add_functions(self, library: memoryview) -> None:
        for number, wire, value in fields(library):
            if number == _FUNCTIONS and wire == BYTES:
                name = function_name(as_view(value))
                self.functions[name] = as_view(value)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __getitem__(self, name: str) -> GraphNode:
        """Return a node.

        Raises:
            Corrupt: there is none of that name.
        """
        node = self._nodes.get(name)
        if node is None:
            stored = self._stored.get(name)
            if stored is None:
                raise Corrupt(
                    f"refers to {name!r}, which its graph does not have; export the model again",
                    uri=self.uri,
                )
            node = self._nodes[name] = self._parse(stored)
        return node

    def _parse(self, stored: memoryview) -> GraphNode:
        node = parse(_MESSAGES["Node"], _without_weights(stored), uri=self.uri)
        data = [each for each in node.input if not each.startswith("^")]
        controls = [each[1:] for each in node.input if each.startswith("^")]
        attributes = _attributes(node)
        inputs = [*map(tensor_of, data)]
        return GraphNode(node.name, node.op, node.device, inputs, controls, attributes, stored)

    # --- what operations declare ---------------------------------------------------------

    def declared(self, node: GraphNode) -> Any:
        """Return the ``OpDef`` of a node's operation, or of the function that it calls.

        Raises:
            CannotBuildFast: no library that was loaded has it.
        """
        found = self._signatures.get(node.op) or _private.operation(node.op)
        if found is None:
            function = self.functions.get(node.op)
            if function is None:
                raise CannotBuildFast(f"nobody has registered the operation {node.op!r}")
            found = parse(function_pb2.FunctionDef, function, uri=self.uri).signature
        self._signatures[node.op] = found
        return found

    def outputs(self, node: GraphNode) -> list[tuple[str, int]]:
        """Return, for each output, how functions refer to it (``arg:0``), and its dtype."""
        return [
            (f"{argument.name}:{index}", dtype)
            for argument in self.declared(node).output_arg
            for index, dtype in enumerate(self._dtypes(node, argument))
        ]

    def output(self, tensor: Input) -> tuple[str, int]:
        """Return how functions refer to a tensor within its node, and its dtype.

        Raises:
            Corrupt: the node has no such output.
        """
        node = self[tensor[0]]
        outputs = self.outputs(node)
        if tensor[1] >= len(outputs):
            raise Corrupt(
                f"refers to output {tensor[1]} of {node.name!r}, which has {len(outputs)}",
                uri=self.uri,
            )
        return outputs[tensor[1]]

    def takes_references(self, node: GraphNode) -> Iterator[bool]:
        """Yield whether each input is one that the operation may change."""
        for argument in self.declared(node).input_arg:
            yield from (argument.is_ref for _ in self._dtypes(node, argument))

    def is_named(self, tensor: Input) -> bool:
        """Whether a tensor is the text by which a resource of TensorFlow 1 is found."""
        node = self[tensor[0]]
        if node.op in REFERENCES:
            return False
        return any(attribute.name == "shared_name" for attribute in self.declared(node).attr)

    def _dtypes(self, node: GraphNode, argument: Any) -> list[int]:
        """Return the dtypes of the tensors that an argument of an operation stands for."""
        if argument.type_list_attr:
            return list(self._attribute(node, argument.type_list_attr).list.type)
        dtype = argument.type
        if argument.type_attr:
            dtype = self._attribute(node, argument.type_attr).type
        count = self._attribute(node, argument.number_attr).i if argument.number_attr else 1
        return [dtype % _REFERENCE] * count

    def _attribute(self, node: GraphNode, name: str) -> Any:
        """Return an attribute of a node, or its default."""
        if name not in node.attributes:
            for attribute in self.declared(node).attr:
                if attribute.name == name:
                    return attribute.default_value
        return node.attribute(name)

    def shape(self, tensor: Input) -> Any:
        """Return the ``TensorShapeProto`` of a tensor, where the graph says it, else ``None``."""
        node = self[tensor[0]]
        shapes = node.attribute("_output_shapes").list.shape
        if tensor[1] < len(shapes):
            return shapes[tensor[1]]
        return node.attribute("shape").shape if node.op == "Placeholder" else None


def _without_weights(node: memoryview) -> Wire:
    """Leave out the value of a large constant, so that it is not copied."""
    if len(node) <= _LARGE:
        return node
    pieces = [(number, as_view(value)) for number, wire, value in fields(node) if wire == BYTES]
    if (_OPERATION, memoryview(CONSTANT.encode())) not in pieces:
        return node
    small = (each for each in pieces if len(each[1]) <= _LARGE)
    return b"".join(piece for each in small for piece in encoded(*each))


def _attributes(node: Any) -> dict[str, bytes]:
    return {each.key: each.value for each in node.attr}


def _name_of(node: memoryview) -> str:
    for number, wire, value in fields(node):
        if number == _NAME and wire == BYTES:
            return as_text(value)
    raise Corrupt("has a node without a name; export the model again")
