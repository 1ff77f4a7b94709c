"""A SavedModel's protocol buffer, taken apart only as far as it is needed.

``saved_model.pb`` holds every function and every node of the graph that was traced, of which
serving needs a few. Parsed whole it holds the GIL for 130 ms at 7 MB. So its messages are declared
here with `bytes` in the place of what is to stay as it is (the two have the same form on the wire),
and what is asked for is parsed by itself.

The numbers of the fields are those of tensorflow/core/protobuf/saved_model.proto, meta_graph.proto,
saved_object_graph.proto, and tensorflow/core/framework/graph.proto, function.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_object_graph_pb2

from asyncload.errors import Corrupt, FormatError

from . import CannotBuildFast
from ._messages import declare, parse

__all__ = ["SavedModelParts", "choose", "parse_function"]

_MESSAGES = declare(
    "asyncload.saved_model",
    {
        "SavedModel": {"meta_graphs": (2, True, bytes)},
        "MetaGraph": {
            "graph_def": (2, False, bytes),
            "asset_file_def": (6, True, "Asset"),
            "object_graph_def": (7, False, bytes),
        },
        "Asset": {"filename": (2, False, str)},
        "Graph": {"node": (1, True, bytes), "library": (2, False, "Library")},
        "Library": {"function": (1, True, bytes)},
        "Function": {
            "signature": (1, False, "Signature"),
            "node_def": (3, True, "Node"),
            "attr": (5, True, "Attribute"),
            "arg_attr": (7, True, "ArgumentAttributes"),
        },
        "FunctionName": {"signature": (1, False, "Signature")},
        "Signature": {"name": (1, False, str), "output_arg": (3, True, "Argument")},
        "Argument": {"type": (3, False, int)},
        "Node": {"op": (2, False, str), "attr": (5, True, "Attribute")},
        "Attribute": {"key": (1, False, str), "value": (2, False, bytes)},
        "ArgumentAttributes": {"key": (1, False, int), "value": (2, False, "Attributes")},
        "Attributes": {"attr": (1, True, "Attribute")},
        "ObjectGraph": {"nodes": (1, True, bytes), "concrete_functions": (2, True, "Entry")},
        "Entry": {"key": (1, False, str), "value": (2, False, bytes)},
    },
)


def parse_function(data: bytes, *, uri: str) -> Any:
    """Parse a ``FunctionDef``: its name, outputs and nodes, and the names of attributes."""
    return parse(_MESSAGES["Function"], data, uri=uri)


class SavedModelParts:
    """The parts of a SavedModel that TensorFlow 2 wrote.

    Args:
        content: of ``saved_model.pb``.
        uri: for messages.

    Raises:
        Corrupt: it is damaged.
        CannotBuildFast: TensorFlow 1 wrote it.
    """

    def __init__(self, content: bytes, uri: str) -> None:
        self.uri = uri
        graphs = parse(_MESSAGES["SavedModel"], content, uri=uri).meta_graphs
        if not graphs:
            raise Corrupt("holds no graph; copy or export the model again", uri=uri)
        if len(graphs) > 1:
            raise CannotBuildFast("it has several graphs, as TensorFlow 1 writes them")
        graph = parse(_MESSAGES["MetaGraph"], graphs[0], uri=uri)
        if not graph.object_graph_def:
            raise CannotBuildFast("it has no object graph: TensorFlow 1 wrote it")
        self._graph = parse(_MESSAGES["Graph"], graph.graph_def, uri=uri)
        objects = parse(_MESSAGES["ObjectGraph"], graph.object_graph_def, uri=uri)
        self._nodes: list[bytes] = list(objects.nodes)
        self._concrete = {entry.key: entry.value for entry in objects.concrete_functions}
        self._parsed: dict[int, Any] = {}
        self.assets: list[str] = [asset.filename for asset in graph.asset_file_def]

    @cached_property
    def functions(self) -> dict[str, bytes]:
        """The serialized function definitions by name."""
        found: dict[str, bytes] = {}
        for data in self._graph.library.function:
            found[parse(_MESSAGES["FunctionName"], data, uri=self.uri).signature.name] = data
        return found

    def node(self, number: int) -> Any:
        """Return a ``SavedObject`` of the object graph.

        Raises:
            Corrupt: there is none of that number.
        """
        node = self._parsed.get(number)
        if node is None:
            if not 0 <= number < len(self._nodes):
                raise Corrupt(
                    f"refers to object {number} of {len(self._nodes)}; export the model again",
                    uri=self.uri,
                )
            kind = saved_object_graph_pb2.SavedObject
            node = self._parsed[number] = parse(kind, self._nodes[number], uri=self.uri)
        return node

    def child(self, number: int, name: str) -> int | None:
        """Return the number of a node's child of that name, if it has one."""
        for reference in self.node(number).children:
            if reference.local_name == name:
                return int(reference.node_id)
        return None

    def concrete(self, name: str) -> Any:
        """Return the ``SavedConcreteFunction`` of a function.

        Raises:
            Corrupt: there is none.
        """
        data = self._concrete.get(name)
        if data is None:
            raise Corrupt(
                f"has no function {name!r}, which it refers to; export the model again",
                uri=self.uri,
            )
        return parse(saved_object_graph_pb2.SavedConcreteFunction, data, uri=self.uri)

    def signatures(self) -> dict[str, Any]:
        """Return the ``SavedBareConcreteFunction`` of every signature by its name."""
        holder = self.child(0, "signatures")
        if holder is None:
            return {}
        found = {}
        for reference in self.node(holder).children:
            node = self.node(reference.node_id)
            if node.WhichOneof("kind") == "bare_concrete_function":
                found[reference.local_name] = node.bare_concrete_function
        return found

    def constants(self, operations: Iterable[str]) -> dict[str, Any]:
        """Return the ``TensorProto`` of constants by the names of their operations.

        Raises:
            Corrupt: there is no such constant.
        """
        wanted = set(operations)
        found: dict[str, Any] = {}
        mentioned = re.compile(b"|".join(re.escape(name.encode()) for name in wanted)).search
        for data in self._graph.node if wanted else ():
            if mentioned(data):  # most are not worth to be parsed
                node = parse(node_def_pb2.NodeDef, data, uri=self.uri)
                if node.name in wanted:
                    found[node.name] = node.attr["value"].tensor
        if missing := wanted - set(found):
            raise Corrupt(f"has no constant {min(missing)!r}; export the model again", uri=self.uri)
        return found


def choose(available: Iterable[str], wanted: Iterable[str] | None, *, uri: str) -> list[str]:
    """Return the names of the signatures that are to be served.

    Raises:
        FormatError: there are none, or none of such a name; lists those that there are.
    """
    names = list(available)
    if not names:
        raise FormatError(
            "has no signatures, so there is nothing to serve. Load it with whole=True, or export "
            "it with signatures=.",
            uri=uri,
        )
    if wanted is None:
        return names
    if missing := [name for name in wanted if name not in names]:
        raise FormatError(
            f"has no signature {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, names))}",
            uri=uri,
        )
    return list(dict.fromkeys(wanted))
