"""A SavedModel that TensorFlow 1 wrote: a graph, and signatures that are parts of it.

There is no object graph. A signature is what lies between its inputs and its outputs; what keeps
state is found by its node: a variable has in the checkpoint the name that the graph's own saver
gives it, and a table is made by its node and filled by the operation that initialises the model.

(tensorflow/core/protobuf/meta_graph.proto; tensorflow/python/saved_model/load_v1_in_v2.py)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tensorflow.core.framework import variable_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saver_pb2

from asyncload.errors import Corrupt
from asyncload.formats.protobuf import as_text, as_view, fields

from . import CannotBuildFast
from ._graph import Graph, Input, tensor_of
from ._graph_functions import Cut
from ._messages import parse

__all__ = ["GraphModel"]

# Fields of MetaGraphDef, and of an entry of its maps.
_GRAPH, _SAVER, _COLLECTIONS, _SIGNATURES, _ASSETS = 2, 3, 4, 5, 6
_KEY, _VALUE = 1, 2

_INITIALISES = "__saved_model_init_op"  # a signature; before that, one of two collections
_MAIN_OPS = ("saved_model_main_op", "legacy_init_op")
_TABLES, _LOCALS = "table_initializer", "local_variables"
_ASSET_FILES = "saved_model_assets"


class GraphModel:
    """The parts of a SavedModel of TensorFlow 1, with what `SavedModelParts` offers to others.

    Args:
        parts: the fields of its ``MetaGraphDef``, by number.
        uri: for messages.

    Attributes:
        uri: the same.
        graph: its graph.
        restores: the node that restores its variables; empty if there are none.
        cuts: the functions that were cut out of the graph, by name.

    Raises:
        Corrupt: it is damaged.
    """

    def __init__(self, parts: Mapping[int, list[memoryview]], uri: str) -> None:
        self.uri = uri
        self.cuts: dict[str, Cut] = {}
        try:
            graph = parts[_GRAPH][-1] if parts[_GRAPH] else memoryview(b"")
            self.graph = Graph(graph, uri)
            self._definitions = self._map(parts[_SIGNATURES], meta_graph_pb2.SignatureDef)
            self._collections = self._map(parts[_COLLECTIONS], meta_graph_pb2.CollectionDef)
        except Corrupt as error:
            error.uri = error.uri or uri
            raise
        saver = parse(saver_pb2.SaverDef, b"".join(parts[_SAVER]), uri=uri)
        self.restores: str = saver.restore_op_name
        listed = self.collection(_ASSET_FILES).any_list.value
        stored = parts[_ASSETS] or [each.value for each in listed]
        self._assets = [parse(meta_graph_pb2.AssetFileDef, each, uri=uri) for each in stored]

    def _map(self, entries: Iterable[memoryview], kind: Any) -> dict[str, Any]:
        found = {}
        for entry in entries:
            pair = {number: as_view(value) for number, _, value in fields(entry)}
            name = as_text(pair.get(_KEY, memoryview(b"")))
            found[name] = parse(kind, pair.get(_VALUE, b""), uri=self.uri)
        return found

    def collection(self, name: str) -> Any:
        """Return a ``CollectionDef``; an empty one where there is none."""
        return self._collections.get(name) or meta_graph_pb2.CollectionDef()

    def signatures(self) -> dict[str, Any]:
        """Return the ``SignatureDef`` of every signature by its name."""
        return self._definitions

    @property
    def functions(self) -> Mapping[str, Any]:
        """All functions by name: those of the graph's library, and those that were cut out."""
        return {**self.graph.functions, **self.cuts}

    def function(self, name: str) -> list[tuple[int, memoryview]] | None:
        """Return the fields of a ``FunctionDef``; ``None`` if there is none of that name."""
        if name in self.cuts:
            return self.cuts[name].fields
        definition = self.graph.functions.get(name)
        if definition is None:
            return None
        return [(number, as_view(value)) for number, _, value in fields(definition)]

    def constants(self, operations: Iterable[str]) -> dict[str, Any]:
        """Return nothing: constants are parts of the functions."""
        del operations
        return {}

    # --- what initialises ------------------------------------------------------------------

    @property
    def assets(self) -> dict[Input, str]:
        """Tensor -> name of the file below ``assets/`` of which it takes the path."""
        return {tensor_of(each.tensor_info.name): each.filename for each in self._assets}

    def initialisers(self) -> list[str]:
        """Return the nodes that initialise the model once its variables have their values."""
        if _INITIALISES in self._definitions:
            outputs = self._definitions[_INITIALISES].outputs
            return [tensor_of(output.name)[0] for output in outputs.values()]
        for name in _MAIN_OPS:
            listed = list(self.collection(name).node_list.value)
            if len(listed) > 1:
                raise CannotBuildFast(f"it has several operations in the collection {name!r}")
            if listed:
                return [tensor_of(listed[0])[0]]
        local = self.collection(_LOCALS).bytes_list.value
        variables = [parse(variable_pb2.VariableDef, each, uri=self.uri) for each in local]
        return [
            tensor_of(name)[0]
            for name in (
                *(variable.initializer_name for variable in variables),
                *self.collection(_TABLES).node_list.value,
            )
        ]
