"""A SavedModel's protocol buffer, taken apart only as far as it is needed.

``saved_model.pb`` holds every function and every node of the graph that was traced, of which
serving needs a few. Parsed whole it holds the GIL for 130 ms at 7 MB. So its messages are declared
here with `bytes` in the place of what is to stay as it is (the two have the same form on the wire),
and what is asked for is parsed by itself. The outermost ones are only looked through, as to copy
7 MB into new pages takes milliseconds more.

The numbers of the fields are those of tensorflow/core/protobuf/saved_model.proto, meta_graph.proto,
saved_object_graph.proto, and tensorflow/core/framework/graph.proto, function.proto.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_object_graph_pb2

from asyncload.errors import Corrupt, FormatError
from asyncload.formats.protobuf import BYTES, Wire, as_text, as_view, fields

from ._messages import declare, parse

__all__ = [
    "MetaGraph",
    "SavedModelParts",
    "SharedName",
    "choose",
    "function_name",
    "meta_graph",
    "shared_names",
]

# Fields: SavedModel.meta_graphs; MetaGraphDef.meta_info_def, .graph_def, .saver_def,
# .collection_def, .signature_def, .asset_file_def, .object_graph_def; MetaInfoDef.tags;
# AssetFileDef.filename; GraphDef.node, .library; FunctionDefLibrary.function;
# FunctionDef.signature; OpDef.name; SavedObjectGraph.nodes; SavedObject.resource.
_META_GRAPHS = 2
_INFO, _GRAPH, _ASSETS, _OBJECTS = 1, 2, 6, 7
_META_GRAPH = range(1, 8)
_TAGS = 4
_RESOURCE = 10
_FILENAME = 2
_NODES, _LIBRARY = 1, 2
_FUNCTIONS = 1
_SIGNATURE = 1
_NAME = 1
_NODE = 3  # of FunctionDef

_SERVE = "serve"  # what TensorFlow Serving looks for
SharedName = tuple[str, str]  # container, name

_MESSAGES = declare(
    "asyncload.saved_model",
    {
        "ObjectGraph": {"nodes": (1, True, bytes), "concrete_functions": (2, True, "Entry")},
        "Entry": {"key": (1, False, str), "value": (2, False, bytes)},
    },
)


def _parts(message: Wire, *numbers: int) -> dict[int, list[memoryview]]:
    """Return the bytes of some fields of a message, in their order, without copying them."""
    found: dict[int, list[memoryview]] = {number: [] for number in numbers}
    for number, wire, value in fields(message):
        if number in found and wire == BYTES:
            found[number].append(as_view(value))
    return found


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Say in errors which file they are about."""
    try:
        yield
    except Corrupt as error:
        error.uri = error.uri or uri
        raise


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """One of a SavedModel's graphs.

    Attributes:
        tags: by which it is told from others; ``None`` if it is the only one and nobody asked.
        fields: of its ``MetaGraphDef``, by their numbers.
    """

    tags: frozenset[str] | None
    fields: Mapping[int, list[memoryview]]

    @property
    def has_objects(self) -> bool:
        """Whether it has an object graph, as TensorFlow 2 writes it."""
        return bool(self.fields[_OBJECTS])


def meta_graph(content: Wire, tags: Collection[str] | None = None, *, uri: str) -> MetaGraph:
    """Return the graph that has exactly these tags.

    Args:
        content: of ``saved_model.pb``.
        tags: the ones; ``None`` for the only graph, or among several for ``serve`` alone.
        uri: for messages.

    Raises:
        Corrupt: it is damaged.
        FormatError: it has no such graph; lists those that it has.
    """
    with _named(uri):
        graphs = [
            _parts(graph, *_META_GRAPH) for graph in _parts(content, _META_GRAPHS)[_META_GRAPHS]
        ]
        if not graphs:
            raise Corrupt("holds no graph; copy or export the model again")
        found = [
            frozenset(as_text(tag) for info in graph[_INFO] for tag in _parts(info, _TAGS)[_TAGS])
            for graph in graphs
        ]
    if tags is None and len(graphs) == 1:
        return MetaGraph(None, graphs[0])
    wanted = frozenset({_SERVE} if tags is None else tags)
    if wanted not in found:
        listed = ", ".join(sorted(str(sorted(each)) for each in found))
        raise FormatError(
            f"has no graph with exactly the tags {sorted(wanted)}; there are graphs with {listed}. "
            "Choose one with tags=.",
            uri=uri,
        )
    return MetaGraph(wanted, graphs[found.index(wanted)])


class SavedModelParts:
    """The parts of a SavedModel that TensorFlow 2 wrote.

    Args:
        graph: the fields of its ``MetaGraphDef``.
        uri: for messages.

    Raises:
        Corrupt: it is damaged.
    """

    def __init__(self, graph: Mapping[int, list[memoryview]], uri: str) -> None:
        self.uri = uri
        with _named(uri):
            self.assets = [
                as_text(name)
                for asset in graph[_ASSETS]
                for name in _parts(asset, _FILENAME)[_FILENAME]
            ]
        self._graph = graph[_GRAPH][-1] if graph[_GRAPH] else memoryview(b"")
        objects = parse(_MESSAGES["ObjectGraph"], graph[_OBJECTS][-1], uri=uri)
        self._nodes: list[bytes] = list(objects.nodes)
        self._concrete = {entry.key: entry.value for entry in objects.concrete_functions}
        self._parsed: dict[int, Any] = {}

    @cached_property
    def _graph_parts(self) -> dict[int, list[memoryview]]:
        with _named(self.uri):
            return _parts(self._graph, _NODES, _LIBRARY)

    def function(self, name: str) -> list[tuple[int, memoryview]] | None:
        """Return the fields of a ``FunctionDef``, all of which are messages; ``None`` if missing.

        Raises:
            Corrupt: it is damaged.
        """
        definition = self.functions.get(name)
        if definition is None:
            return None
        with _named(self.uri):
            return [(number, as_view(value)) for number, _, value in fields(definition)]

    @cached_property
    def functions(self) -> dict[str, memoryview]:
        """The serialized function definitions by name."""
        found: dict[str, memoryview] = {}
        with _named(self.uri):
            for library in self._graph_parts[_LIBRARY]:
                for function in _parts(library, _FUNCTIONS)[_FUNCTIONS]:
                    found[function_name(function)] = function
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

    def resources(self) -> list[int]:
        """Return the numbers of all tables and other resources."""
        with _named(self.uri):
            return [
                number
                for number, node in enumerate(self._nodes)
                if any(field == _RESOURCE for field, _, _ in fields(node))
            ]

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
        for data in self._graph_parts[_NODES] if wanted else ():
            if mentioned(data):  # most are not worth to be parsed
                node = parse(node_def_pb2.NodeDef, data, uri=self.uri)
                if node.name in wanted:
                    found[node.name] = node.attr["value"].tensor
        if missing := wanted - set(found):
            raise Corrupt(f"has no constant {min(missing)!r}; export the model again", uri=self.uri)
        return found


def function_name(function: memoryview) -> str:
    """Return the name of a serialized ``FunctionDef``.

    Raises:
        Corrupt: it has none.
    """
    for number, _, signature in fields(function):
        if number == _SIGNATURE:
            for inner, _, name in fields(as_view(signature)):
                if inner == _NAME:
                    return as_text(name)
    raise Corrupt("has a function without a name; export the model again")


def shared_names(function: memoryview, *, uri: str) -> set[SharedName]:
    """Return the names by which a serialized ``FunctionDef`` reaches resources.

    As `_private.Library` does, it takes a static table for its own that does not say otherwise.
    """
    mentioned = re.compile(b"shared_name").search
    found = set()
    for number, wire, value in fields(function) if mentioned(function) else ():
        if number == _NODE and wire == BYTES and mentioned(as_view(value)):
            node = parse(node_def_pb2.NodeDef, as_view(value), uri=uri)
            own = node.op == "HashTableV2" and not node.attr["use_node_name_sharing"].b
            if not own and "shared_name" in node.attr:
                name = node.attr["shared_name"].s.decode(errors="replace") or node.name
                found.add((node.attr["container"].s.decode(errors="replace"), name))
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
