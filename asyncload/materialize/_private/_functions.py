"""Functions of a SavedModel in the eager runtime: registered, called and removed."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.core.framework import node_def_pb2
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context
from tensorflow.python.framework import (
    constant_op,
    dtypes,
    op_def_registry,
    ops,
    tensor_shape,
    tensor_util,
)
from tensorflow.python.ops import gen_functional_ops, resource_variable_ops
from tensorflow.python.saved_model import nested_structure_coder

__all__ = ["Library", "constant", "decode_structure", "rename_calls", "variable_handle"]


def decode_structure(proto: Any) -> Any:
    """Return what a ``StructuredValue`` stands for: dicts and tuples of `tf.TypeSpec`."""
    return nested_structure_coder.decode_proto(proto)


def variable_handle(shape: Any, dtype: Any, name: str) -> Any:
    """Return the handle of a new variable without a value; the variable ends with it."""
    return resource_variable_ops._variable_handle_from_shape_and_dtype(
        tensor_shape.TensorShape(shape), dtypes.as_dtype(dtype), None, name, graph_mode=False
    )


def constant(proto: Any) -> Any:
    """Return the tensor that a ``TensorProto`` holds."""
    return constant_op.constant(tensor_util.MakeNdarray(proto), dtype=proto.dtype)


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


@functools.lru_cache(maxsize=4096)
def _traits(operation: str) -> _Traits:
    declared = op_def_registry.get(operation)
    if declared is None:  # a function under its own name, or nothing that can run
        return _Traits(True, None)
    calls = any(attribute.type in ("func", "list(func)") for attribute in declared.attr)
    shared = [a.default_value.s for a in declared.attr if a.name == "shared_name"]
    return _Traits(calls, shared[0] if shared else None) if calls or shared else _PLAIN


def rename_calls(
    nodes: Any, operations: Iterable[str], library: Library, functions: Container[str]
) -> list[str]:
    """Make the nodes of a function fit for one load, as ``tf.saved_model.load`` does.

    Functions that they call get new names, and resources that they share by name are shared within
    this load only (saved_model/function_deserialization.py, ``fix_node_def``).

    Args:
        nodes: serialized ``NodeDef``s; those that change are replaced.
        operations: the operation of each.
        library: what the functions are to be registered in.
        functions: the names of all functions there are.

    Returns:
        The functions that are called, by their old names.
    """
    called: list[str] = []
    for index, operation in enumerate(operations):
        traits = _traits(operation)
        if traits is _PLAIN:
            continue
        node = node_def_pb2.NodeDef.FromString(nodes[index])
        if traits.calls:
            called.extend(_rename_functions(node, library, functions))
        if traits.shared is not None:
            _rename_shared(node, traits.shared, library.suffix)
        nodes[index] = node.SerializeToString()
    return called


def _rename_functions(node: Any, library: Library, functions: Container[str]) -> Iterator[str]:
    if node.op in functions:
        yield node.op
        node.op = library.new_name(node.op)
    for attribute in node.attr.values():
        for reference in _references(attribute):
            yield reference.name
            reference.name = library.new_name(reference.name)


def _references(attribute: Any) -> Iterable[Any]:
    match attribute.WhichOneof("value"):
        case "func":
            return (attribute.func,)
        case "list":
            return tuple(attribute.list.func)
        case _:
            return ()


def _rename_shared(node: Any, default: bytes, suffix: str) -> None:
    if node.op == "HashTableV2" and not node.attr["use_node_name_sharing"].b:
        node.attr["use_node_name_sharing"].b = True
        suffix += f"_{ops.uid()}"  # it was not shared before
    given = node.attr["shared_name"].s if "shared_name" in node.attr else b""
    node.attr["shared_name"].s = (given or default or node.name.encode()) + suffix.encode()


# --- the runtime -------------------------------------------------------------------------


class Library:
    """Functions that are registered with the eager runtime for as long as this object lives.

    Attributes:
        suffix: what makes names of this load unique.
    """

    def __init__(self) -> None:
        self._eager = context.context()
        self._eager.ensure_initialized()
        self.suffix = f"_asyncload_{ops.uid()}"
        self._outputs: dict[str, list[int]] = {}
        self._registered: list[str] = []
        ending = weakref.finalize(self, _remove, self._eager, self._registered)
        ending.atexit = False  # the runtime goes with the process

    def new_name(self, name: str) -> str:
        """Return the name in the runtime of a function of the SavedModel."""
        return name + self.suffix

    def add(self, name: str, definition: bytes, outputs: list[int]) -> None:
        """Register a function.

        Args:
            name: in the SavedModel.
            definition: a serialized ``FunctionDef`` that has its new name.
            outputs: the dtype of each of its results, as protocol buffers number them.

        Raises:
            tf.errors.OpError: the runtime refuses it.
        """
        # Lets other threads run; `Context.add_function_def` would serialize it once more.
        pywrap_tfe.TFE_ContextAddFunctionDef(self._eager._handle, definition, len(definition))
        self._registered.append(self.new_name(name))
        self._outputs[name] = outputs

    def call(self, name: str, inputs: Sequence[Any]) -> list[Any]:
        """Call a function, eagerly or in the graph that is being traced.

        Args:
            name: in the SavedModel.
            inputs: a tensor for each of its arguments, captures included.

        Returns:
            Its results, flat.
        """
        called, outputs = self.new_name(name), self._outputs[name]
        if self._eager.executing_eagerly():
            results = self._eager.call_function(called.encode(), list(inputs), len(outputs))
        else:
            results = gen_functional_ops.stateful_partitioned_call(list(inputs), outputs, f=called)
        return list(results or ())


def _remove(eager: Any, names: list[str]) -> None:
    for name in names:
        eager.remove_function(name)
