"""Functions of a SavedModel in the eager runtime: registered, called and removed.

TensorFlow instantiates a function when it is first called, for seconds, and keeps what came of it
under the function's name. So functions are named after what they consist of: a model that has the
same functions as another one in this process (its next version, most often) shares them, and its
first call is as fast as the other's last.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import constant_op, op_def_registry, ops, tensor, tensor_util
from tensorflow.python.ops import gen_functional_ops, gen_resource_variable_ops
from tensorflow.python.saved_model import nested_structure_coder

from asyncload.forks import OwnLock
from asyncload.formats.protobuf import Wire, encoded
from asyncload.materialize._messages import declare
from asyncload.materialize._turn import with_rests

from ._runtime import add_function

__all__ = [
    "Draft",
    "Library",
    "UnknownOperation",
    "assign",
    "constant",
    "decode_structure",
    "encode_structure",
    "input_name",
    "operation",
    "variable_handle",
]


def decode_structure(proto: Any) -> Any:
    """Return what a ``StructuredValue`` stands for: dicts and tuples of `tf.TypeSpec`."""
    return nested_structure_coder.decode_proto(proto)


def encode_structure(structure: Any) -> Any:
    """Return the ``StructuredValue`` of dicts and tuples of `tf.TypeSpec`."""
    return nested_structure_coder.encode_structure(structure)


def operation(name: str) -> Any:
    """Return the ``OpDef`` of an operation; ``None`` if no library that was loaded has it."""
    return op_def_registry.get(name)


def input_name(name: str) -> str:
    """Return the name that TensorFlow gives the spec of an input of a signature."""
    return str(tensor.sanitize_spec_name(name))


def variable_handle(shape: Any, dtype: int, name: str) -> Any:
    """Return the handle of a new variable without a value; the variable ends with it.

    Args:
        shape: a ``TensorShapeProto``.
        dtype: as protocol buffers number it.
        name: for messages.
    """
    sizes = None if shape.unknown_rank else [size.size for size in shape.dim]
    return gen_resource_variable_ops.var_handle_op(
        dtype=dtype, shape=sizes, shared_name=context.anonymous_name(), debug_name=name, name=name
    )


def assign(handle: Any, value: Any) -> None:
    """Give a variable its first value, a tensor whose memory it shares."""
    gen_resource_variable_ops.assign_variable_op(handle, value)


def constant(proto: Any) -> Any:
    """Return the tensor that a ``TensorProto`` holds."""
    return constant_op.constant(tensor_util.MakeNdarray(proto), dtype=proto.dtype)


# Attributes that running a function does not need. TensorFlow numbers the first two anew at each
# trace; the others say what follows from the operations, and its own loader drops them too: with
# them, instantiating takes a third longer.
_GRADIENT, _GIVEN_NAME = "_gradient_op_type", "_user_specified_name"
_INFERRED, _INFERRED_OF_INPUTS = "_output_shapes", b"_input_shapes"

# Fields of FunctionDef (tensorflow/core/framework/function.proto).
_SIGNATURE, _NODE, _ATTRIBUTE, _ARGUMENT = 1, 3, 5, 7
_MESSAGES = declare(
    "asyncload.serving",
    {
        "Signature": {"name": (1, False, str), "output_arg": (3, True, "Output")},
        "Output": {"type": (3, False, int)},
        "Node": {"op": (2, False, str), "attr": (5, True, "Attribute")},
        "Attribute": {"key": (1, False, str), "value": (2, False, bytes)},
        "Argument": {"key": (1, False, int), "value": (2, False, "Attributes")},
        "Attributes": {"attr": (1, True, "Attribute")},
    },
)

# --- definitions -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Traits:
    """What an operation may hold that is particular to one load.

    Attributes:
        calls: whether an attribute of it names functions.
        shared: the default of its ``shared_name``, if it has that.
    """

    calls: bool
    shared: bytes | None


_PLAIN = _Traits(False, None)
_UNKNOWN = _Traits(True, None)  # a function under its own name, or nothing that can run


class UnknownOperation(Exception):
    """No library that was loaded has an operation of this name."""


_known: dict[str, _Traits] = {}
_required: dict[str, frozenset[str]] = {}  # attributes that an operation has no default of


def _traits(operation: str) -> _Traits:
    traits = _known.get(operation)
    if traits is None:
        declared = op_def_registry.get(operation)
        if declared is None:  # not kept: a library that has it may yet be loaded
            return _UNKNOWN
        traits = _known[operation] = _declared_traits(declared)
        _required[operation] = frozenset(
            each.name for each in declared.attr if not each.HasField("default_value")
        )
    return traits


def _declared_traits(declared: Any) -> _Traits:
    calls = any(attribute.type in ("func", "list(func)") for attribute in declared.attr)
    shared = [a.default_value.s for a in declared.attr if a.name == "shared_name"]
    return _Traits(calls, shared[0] if shared else None) if calls or shared else _PLAIN


class Draft:
    """The definition of a function, on its way to a `Library`.

    It is parsed and put together message by message, as a large one would hold the GIL for
    milliseconds at once.

    Args:
        function: the fields of a ``FunctionDef``: (number, message).
        functions: the names of all functions there are.

    Attributes:
        calls: the functions that it calls.

    Raises:
        UnknownOperation: one of its nodes is neither an operation nor a function.
        google.protobuf.message.DecodeError: it is damaged.
    """

    def __init__(
        self, function: Iterable[tuple[int, memoryview]], functions: Container[str]
    ) -> None:
        self._signature: Any = _MESSAGES["Signature"]()
        self._fields: list[tuple[int, Wire]] = []
        self._nodes: list[tuple[int, _Traits, Any]] = []
        self.calls: list[str] = []
        for number, content in with_rests(function):
            if number == _SIGNATURE:
                self._signature.MergeFromString(bytes(content))
            elif number == _NODE:
                self._add_node(content, functions)
            elif number == _ARGUMENT:
                self._fields.append((number, _without(_GIVEN_NAME, content)))
            elif number != _ATTRIBUTE or _INFERRED_OF_INPUTS not in bytes(content):
                self._fields.append((number, content))

    def _add_node(self, content: memoryview, functions: Container[str]) -> None:
        node = _MESSAGES["Node"].FromString(bytes(content))
        traits = _traits(node.op)
        if traits is _UNKNOWN and node.op not in functions:
            raise UnknownOperation(f"nobody has registered the operation {node.op!r}")
        if not _required.get(node.op, frozenset()).issubset(each.key for each in node.attr):
            # TensorFlow's optimisers end the process where they look for it.
            raise DecodeError(f"{node.op} is without an attribute that it needs")
        if traits is not _PLAIN:
            whole = node_def_pb2.NodeDef.FromString(bytes(content))
            whole.attr.pop(_INFERRED, None)
            self._nodes.append((len(self._fields), traits, whole))
            self.calls.extend(_called(whole, functions))
        kept: Wire = node.SerializeToString() if _drop(node.attr, _INFERRED) else content
        self._fields.append((_NODE, kept))

    def finish(self, names: Mapping[str, str], suffix: str) -> tuple[str, bytes, list[int]]:
        """Give functions and shared resources the names that they have in this process.

        As ``tf.saved_model.load`` does (saved_model/function_deserialization.py,
        ``fix_node_def``), resources that functions share by name are shared within one load only.

        Args:
            names: the new name of every function that this one calls.
            suffix: unique to the load.

        Returns:
            Its own new name, its serialized ``FunctionDef``, and its outputs' dtypes as protocol
            buffers number them.
        """
        own = any(traits.shared is not None for _, traits, _ in self._nodes)
        for index, traits, node in with_rests(self._nodes):
            node.op = names.get(node.op, node.op)
            for reference in _references(node):
                reference.name = names[reference.name]
            node.attr.pop(_GRADIENT, None)
            if traits.shared is not None:
                _rename_shared(node, traits.shared, suffix)
            self._fields[index] = _NODE, node.SerializeToString(deterministic=True)
        readable = re.sub(r"_\d+$", "", self._signature.name)
        self._signature.name = ""
        pieces = [piece for number, content in self._fields for piece in encoded(number, content)]
        digest = hashlib.sha256(self._signature.SerializeToString(deterministic=True))
        for piece in pieces:
            digest.update(piece)
        self._signature.name = f"{readable}_{digest.hexdigest()[:32]}{suffix if own else ''}"
        signature = encoded(_SIGNATURE, self._signature.SerializeToString())
        outputs = [result.type for result in self._signature.output_arg]
        return self._signature.name, b"".join([*signature, *pieces]), outputs


def _drop(attributes: Any, name: str) -> bool:
    for index, attribute in enumerate(attributes):
        if attribute.key == name:
            del attributes[index]
            return True
    return False


def _without(name: str, content: memoryview) -> Wire:
    """Return the attributes of an argument without one of them."""
    argument = _MESSAGES["Argument"].FromString(bytes(content))
    kept: Wire = argument.SerializeToString() if _drop(argument.value.attr, name) else content
    return kept


def _called(node: Any, functions: Container[str]) -> Iterator[str]:
    if node.op in functions:
        yield node.op
    yield from (reference.name for reference in _references(node))


def _references(node: Any) -> Iterator[Any]:
    for attribute in node.attr.values():
        match attribute.WhichOneof("value"):
            case "func":
                yield attribute.func
            case "list":
                yield from attribute.list.func


def _rename_shared(node: Any, default: bytes, suffix: str) -> None:
    if node.op == "HashTableV2" and not node.attr["use_node_name_sharing"].b:
        node.attr["use_node_name_sharing"].b = True
        suffix += f"_{ops.uid()}"  # it was not shared before
    given = node.attr["shared_name"].s if "shared_name" in node.attr else b""
    node.attr["shared_name"].s = (given or default or node.name.encode()) + suffix.encode()


# --- the runtime -------------------------------------------------------------------------

# Names in the runtime, and how many libraries have them. Reentrant, as collecting garbage may end
# a library at any time, in any thread.
_users: Counter[str] = Counter()
_users_lock = OwnLock()


class Library:
    """Functions that are registered with the eager runtime for as long as this object lives.

    Attributes:
        names: name in the SavedModel -> name in the runtime.
    """

    def __init__(self) -> None:
        self._eager = context.context()
        self._eager.ensure_initialized()
        self._suffix = f"_asyncload_{ops.uid()}"
        self._outputs: dict[str, list[int]] = {}
        self.names: dict[str, str] = {}
        ending = weakref.finalize(self, _remove, self._eager, self.names)
        ending.atexit = False  # the runtime goes with the process

    def add(self, name: str, draft: Draft) -> None:
        """Register a function, after those that it calls.

        Args:
            name: in the SavedModel.
            draft: its definition.

        Raises:
            tf.errors.OpError: the runtime refuses it.
        """
        registered, definition, outputs = draft.finish(self.names, self._suffix)
        with _users_lock:
            if not _users[registered]:
                add_function(self._eager, definition)
            _users[registered] += 1
            self.names[name] = registered
        self._outputs[name] = outputs

    def call(self, name: str, inputs: Sequence[Any]) -> list[Any]:
        """Call a function, eagerly or in the graph that is being traced.

        Args:
            name: in the SavedModel.
            inputs: a tensor for each of its arguments, captures included.

        Returns:
            Its results, flat.
        """
        called, outputs = self.names[name], self._outputs[name]
        if self._eager.executing_eagerly():
            results = self._eager.call_function(called.encode(), list(inputs), len(outputs))
        else:
            results = gen_functional_ops.stateful_partitioned_call(list(inputs), outputs, f=called)
        return list(results or ())


def _remove(eager: Any, names: Mapping[str, str]) -> None:
    with _users_lock:
        for name in names.values():
            _users[name] -= 1
            if not _users[name]:
                del _users[name]
                eager.remove_function(name)
