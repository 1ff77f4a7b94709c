"""The functions of a SavedModel, imported without asking each operation for what it has not.

TensorFlow makes a Python object for every node of every function, and asks each for a
colocation, a device, and a gradient of its own, by way of an exception where there is none: a
third of the time that a load takes. The nodes as they stand in the file tell which have any.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.python.framework import importer, ops, tensor
from tensorflow.python.saved_model import function_deserialization

__all__ = ["install", "quick_functions"]

_CALLS = frozenset({"StatefulPartitionedCall", "PartitionedCall"})


class _Here(threading.local):
    """What this thread is about.

    Attributes:
        active: whether functions are imported the quick way.
        graph: the one that nodes are being imported into; ``None`` if it needs stock's ways.
        placed: names of its nodes that have a device.
        colocated: names of its nodes that have a colocation.
        differentiated: names of the nodes of the last one that have a gradient of their own.
    """

    active = False
    graph: Any = None
    placed: Collection[str] = ()
    colocated: Collection[str] = ()
    differentiated: Collection[str] = ()


_here = _Here()


@contextmanager
def quick_functions() -> Iterator[None]:
    """Import functions the quick way on this thread until the block ends."""
    before, _here.active = _here.active, True
    try:
        yield
    finally:
        _here.active = before


def _is_plain(graph: Any) -> bool:
    """Whether no scope is open that would add anything to operations made in the graph."""
    return not (
        graph._attr_scope_map
        or graph._op_to_kernel_label_map
        or graph._gradient_override_map
        or graph._gradient_function_map
        or graph._control_dependencies_stack
        or [*graph._colocation_stack.peek_objs(), *graph._device_function_stack.peek_objs()]
        or graph._get_control_flow_context() is not None
        or graph._container
    )


def _looking_first(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Override ``importer.import_graph_def_for_function``: note what the nodes have."""

    @functools.wraps(stock)
    def import_graph_def_for_function(graph_def: Any, *args: Any, **kwargs: Any) -> Any:
        if not _here.active:
            return stock(graph_def, *args, **kwargs)
        graph = ops.get_default_graph()
        nodes = graph_def.node
        _here.placed = {node.name for node in nodes if node.device}
        _here.colocated = {node.name for node in nodes if "_class" in node.attr}
        _here.differentiated = {node.name for node in nodes if "_gradient_op_type" in node.attr}
        _here.graph = graph if _is_plain(graph) else None
        try:
            return stock(graph_def, *args, **kwargs)
        finally:
            _here.graph = None

    return import_graph_def_for_function


class _Some:
    """A graph, of which a few operations are shown."""

    def __init__(self, graph: Any, operations: Sequence[Any]) -> None:
        self._graph = graph
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def get_operations(self) -> Sequence[Any]:
        return self._operations

    def _add_new_tf_operations(self, compute_devices: bool = True) -> Sequence[Any]:
        del compute_devices
        return self._operations


def _placing_some(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    """Override ``importer._ProcessNewOps``: most nodes have no place of their own."""

    @functools.wraps(stock)
    def _process_new_ops(graph: Any) -> None:
        if _here.graph is not graph:
            stock(graph)
            return
        colocated = []
        by_device: dict[str, list[Any]] = {}
        for operation in graph._add_new_tf_operations(compute_devices=False):
            name = operation.name
            if name in _here.colocated:
                colocated.append(operation)
            elif name in _here.placed:
                by_device.setdefault(operation.device, []).append(operation)
            else:
                operation._device_code_locations = []
        for device, operations in by_device.items():
            _place(graph, device, operations)
        if colocated:  # which may be with one of the others, so these come last, as in stock
            stock(_Some(graph, colocated))

    return _process_new_ops


def _place(graph: Any, device: str, operations: Sequence[Any]) -> None:
    with importer._MaybeDevice(device):
        for operation in operations:
            operation._set_device("")
            graph._apply_device_functions(operation)


def _adding_plainly(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Override ``Graph._add_new_tf_operations``: no scope wants to know of them."""

    @functools.wraps(stock)
    def _add_new_tf_operations(self: Any, compute_devices: bool = True) -> Any:
        if _here.graph is not self or compute_devices:
            return stock(self, compute_devices)
        self._check_not_finalized()
        return [
            self._create_op_from_tf_operation(operation, compute_device=False)
            for operation in self.new_operations()
        ]

    return _add_new_tf_operations


def _making_plainly(stock: Callable[..., None]) -> Callable[..., None]:
    """Override ``Graph._create_op_helper``: no scope adds anything to them."""

    @functools.wraps(stock)
    def _create_op_helper(self: Any, op: Any, compute_device: bool = True) -> None:
        if _here.graph is not self or compute_device:
            stock(self, op, compute_device)
            return
        op._gradient_function = None
        op._colocation_code_locations = {}

    return _create_op_helper


def _differentiating_some(stock: Callable[..., None]) -> Callable[..., None]:
    """Override ``_restore_gradient_functions``: most nodes have the gradient of their type."""

    @functools.wraps(stock)
    def _restore_gradient_functions(func_graph: Any, *args: Any) -> None:
        if not _here.active:
            stock(func_graph, *args)
            return
        own = _here.differentiated
        operations = func_graph.get_operations()
        some = [one for one in operations if one.type in _CALLS or (own and one.name in own)]
        stock(_Some(func_graph, some), *args)

    return _restore_gradient_functions


def _shaping_directly(stock: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Override ``Tensor.set_shape``: shapes of a file have sizes as the runtime takes them."""

    @functools.wraps(stock)
    def set_shape(self: Any, shape: Any) -> None:
        if _here.active and type(shape) is TensorShapeProto:
            sizes = [dimension.size for dimension in shape.dim]
            if min(sizes, default=0) >= -1:
                self._shape_val = None
                unknown = shape.unknown_rank
                self._set_shape([] if unknown else sizes, unknown)
                return
        stock(self, shape)

    return set_shape


def _finding_directly(stock: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Override ``Graph.get_operation_by_name``: what asks has the name from the graph itself."""

    @functools.wraps(stock)
    def get_operation_by_name(self: Any, name: Any) -> Any:
        if _here.active and type(name) is str:
            try:
                return self._get_operation_by_name(name)
            except KeyError:  # stock says it better
                pass
        return stock(self, name)

    return get_operation_by_name


def install() -> None:
    """Put the overrides in place; outside of `quick_functions` each one calls stock."""
    for owner, name, override in (
        (importer, "import_graph_def_for_function", _looking_first),
        (importer, "_ProcessNewOps", _placing_some),
        (ops.Graph, "_add_new_tf_operations", _adding_plainly),
        (ops.Graph, "_create_op_helper", _making_plainly),
        (ops.Graph, "get_operation_by_name", _finding_directly),
        (tensor.Tensor, "set_shape", _shaping_directly),
        (function_deserialization, "_restore_gradient_functions", _differentiating_some),
    ):
        setattr(owner, name, override(getattr(owner, name)))
