"""The object graph of a checkpoint: which objects were saved, and under which keys.

Source of the format: ``trackable_object_graph.proto`` of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from asyncload.errors import Corrupt, TooLarge

__all__ = ["GRAPH_DOCUMENT", "Node", "SlotVariable", "parse_object_graph"]

GRAPH_DOCUMENT = "_CHECKPOINTABLE_OBJECT_GRAPH"  # a key of the checkpoint, as TensorFlow names it

_ATTRIBUTES = ".ATTRIBUTES/"  # in each key, between the object's path and the attribute's name

# A graph of 100,000 variables has some 300,000 nodes in 40 MB.
_BYTES_LIMIT = 64 << 20
_NODES_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class SlotVariable:
    """A variable that an optimizer keeps for another one.

    Attributes:
        original: the node of the variable it is kept for.
        slot: its own node.
    """

    name: str
    original: int
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    """One saved object; nodes refer to each other by index, and may do so in circles.

    Attributes:
        children: (local name, node) in the order of the file.
        attributes: (name, checkpoint key) of each tensor that the object wrote.
        slots: what it keeps for other variables, if it is an optimizer.
        saver: the registered saver that wrote its values to files of its own, if any.
    """

    children: Sequence[tuple[str, int]] = ()
    attributes: Sequence[tuple[str, str]] = ()
    slots: Sequence[SlotVariable] = field(default=())
    saver: str = ""


def parse_object_graph(serialized: bytes, *, uri: str) -> list[Node]:
    """Parse a serialized ``TrackableObjectGraph``; node 0 is the root.

    Raises:
        Corrupt: it is no such message, has no root, or refers to what it does not have.
        TooLarge: it is larger than any graph of objects.
    """
    if len(serialized) > _BYTES_LIMIT:
        raise TooLarge(
            f"the object graph takes {len(serialized)} bytes, the limit is {_BYTES_LIMIT}",
            uri=uri,
            tensor=GRAPH_DOCUMENT,
        )
    proto = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        proto.ParseFromString(serialized)
    except (DecodeError, RuntimeError) as error:
        raise _corrupt(f"is no TrackableObjectGraph: {error}", uri) from error
    count = len(proto.nodes)
    if not count:
        raise _corrupt("has no node, not even for the object that was saved", uri)
    if count > _NODES_LIMIT:
        raise TooLarge(
            f"the object graph has {count} nodes, the limit is {_NODES_LIMIT}",
            uri=uri,
            tensor=GRAPH_DOCUMENT,
        )
    nodes = [_read(node) for node in proto.nodes]
    for number, node in enumerate(nodes):
        for other in _references(node):
            if not 0 <= other < count:
                raise _corrupt(f"has {count} nodes, and node {number} refers to {other}", uri)
        for _, key in node.attributes:
            if _ATTRIBUTES not in key:
                raise _corrupt(f"names a key without {_ATTRIBUTES!r}: {key!r}", uri)
    return nodes


def _read(node: trackable_object_graph_pb2.TrackableObjectGraph.TrackableObject) -> Node:
    return Node(
        children=tuple((child.local_name, child.node_id) for child in node.children),
        attributes=tuple((tensor.name, tensor.checkpoint_key) for tensor in node.attributes),
        slots=tuple(
            SlotVariable(slot.slot_name, slot.original_variable_node_id, slot.slot_variable_node_id)
            for slot in node.slot_variables
        ),
        saver=node.registered_saver.name,
    )


def _references(node: Node) -> list[int]:
    references = [other for _, other in node.children]
    for slot in node.slots:
        references += (slot.original, slot.slot)
    return references


def _corrupt(problem: str, uri: str) -> Corrupt:
    return Corrupt(f"the object graph {problem}", uri=uri, tensor=GRAPH_DOCUMENT)
