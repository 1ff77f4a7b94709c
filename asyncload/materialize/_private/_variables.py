"""Keras variables on TensorFlow: made without a value, and bound to memory that is there."""

from __future__ import annotations

import functools
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope
from tensorflow.python.eager import context
from tensorflow.python.framework import ops, tensor_shape
from tensorflow.python.ops import (
    gen_resource_variable_ops,
    handle_data_util,
    resource_variable_ops,
)

from asyncload.materialize._turn import rest_in_turn

__all__ = [
    "Array",
    "Claims",
    "OutOfMemory",
    "OutOfTime",
    "Timer",
    "aliasing",
    "as_tensor",
    "binding",
    "bounded_normalization",
    "here",
    "in_load",
    "in_skeleton",
    "initialising",
    "made_when_read",
    "note_layers",
    "rest_in_skeleton",
    "scope_of_name",
    "still_deferred",
    "without_initialiser",
]

Array = npt.NDArray[Any]
# Of this thread: .unbound and .origins, the variables without a value of the Skeleton that is
# active and the arrays that others got theirs from, .timer, and .recording. A variable without a
# value is kept, by its id, with the name scope of TensorFlow in which it would have got one.
# .claims counts what is made besides. .made has the layers that were made; .created has, by their
# ids, the dicts in which Keras keeps the layers of a model while it makes them.
here = threading.local()
_MEAN_AND_VARIANCE = 8  # bytes
_CALLS = 256  # of what Keras calls often, microseconds apart, between two looks at the clock


def as_tensor(array: Array) -> Any:
    """Return an eager CPU tensor of the array's bytes.

    Memory is shared, and kept alive by the tensor, if the array is C-contiguous and
    64-byte-aligned; otherwise TensorFlow copies.
    """
    eager = context.context()
    eager.ensure_initialized()
    return ops.EagerTensor(array, eager.device_name, None)


class OutOfTime(Exception):
    """Making a Skeleton took longer than it may."""


class OutOfMemory(Exception):
    """Making a Skeleton takes more memory, besides that of its variables, than it may."""


class Claims:
    """How much memory a Skeleton takes for what no file has.

    Args:
        most: bytes that it may take.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.made = 0

    def make(self, nbytes: int) -> None:
        """Count what is about to be made.

        Raises:
            OutOfMemory: it is too much.
        """
        self.made += nbytes
        if self.made > self.most:
            raise OutOfMemory(f"it takes {self.made:,} bytes besides its variables")


def bounded_normalization(stock: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Override ``Normalization.build``: it makes as many means as the input has values."""

    @functools.wraps(stock)
    def build(self: Any, input_shape: Any) -> None:
        if in_skeleton() and input_shape:
            ndim = len(input_shape)
            sizes = [input_shape[axis] for axis in self.axis if -ndim <= axis < ndim]
            here.claims.make(_MEAN_AND_VARIANCE * math.prod(size or 1 for size in sizes))
        stock(self, input_shape)

    return build


def in_skeleton() -> bool:
    """Whether a Skeleton is active on this thread."""
    return getattr(here, "unbound", None) is not None


def note_layers(layers: dict[Any, Any]) -> None:
    """Note a dict of layers that a Skeleton is made with."""
    if in_skeleton():
        here.created[id(layers)] = layers


def rest_in_skeleton() -> None:
    """Rest, when it is due, in what Keras calls often while it makes and binds a Skeleton."""
    if in_skeleton():
        rest_in_turn()
        here.calls = getattr(here, "calls", 0) + 1
        if here.calls % _CALLS == 0:
            _check_time()


def _check_time() -> None:
    timer = getattr(here, "timer", None)
    if timer is not None and time.thread_time() > timer.until:
        raise OutOfTime("it takes longer than it may")


class Timer:
    """How much CPU time a Skeleton may still take.

    Args:
        seconds: all of it.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.until = 0.0  # of the CPU time of the thread that it runs on

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the CPU time of this thread until the block ends."""
        outer, here.timer = getattr(here, "timer", None), self
        began = time.thread_time()
        self.until = began + self.left
        try:
            yield
        finally:
            here.timer = outer
            self.left = self.until - time.thread_time()

    def stop(self) -> None:
        """Let no more of it be taken; from any thread."""
        self.left = self.until = -math.inf


def in_load() -> bool:
    """Whether values are put into variables on this thread: a Skeleton's, or those that live."""
    return in_skeleton() or getattr(here, "recording", False)


@functools.lru_cache(1024)
def _handle_data(shape: Any, dtype: Any) -> Any:
    """Return what a handle of such a variable points to: one message for all of them.

    With one of its own for each, as TensorFlow has it, a model of 1,000 variables that is made and
    dropped makes protobuf free about 10,000 blocks. At each 10,000th it returns the C library's
    free memory to the system (``malloc_trim``, ``python/protobuf.c``), with the GIL held: an event
    loop stands still for 12 ms and more.
    """
    return handle_data_util.create_handle_data(shape, dtype)


def _bind(variable: Any, tensor: Any) -> None:
    """Give a Keras variable that has no value yet this one, sharing its memory."""
    value = resource_variable_ops.ResourceVariable.__new__(resource_variable_ops.ResourceVariable)
    _, scope = here.unbound.get(id(variable), (None, context.context().scope_name))
    name = f"{scope}{variable.name}"
    unique = f"{name}_{ops.uid()}"
    shape, dtype = tensor.shape, tensor.dtype
    handle = gen_resource_variable_ops.var_handle_op(
        dtype, shape, shared_name=context.anonymous_name(), debug_name=name, name=name
    )
    handle._handle_data = _handle_data(shape, dtype)
    handle._parent_trackable = weakref.ref(value)
    handle._name = f"{name}:0"
    handle._unique_id = unique
    gen_resource_variable_ops.assign_variable_op(handle, tensor)
    resource_variable_ops.BaseResourceVariable.__init__(
        value,
        trainable=variable.trainable,
        shape=tensor_shape.as_shape(shape),
        dtype=dtype,
        handle=handle,
        synchronization=variable._map_synchronization(variable.synchronization),
        aggregation=variable._map_aggregation(variable.aggregation),
        name=name,
        unique_id=unique,
        handle_name=name,
        in_graph_mode=False,
    )
    variable._value = value
    variable._initializer = None


def _leave_unbound(variable: Any) -> None:
    here.unbound[id(variable)] = variable, context.context().scope_name


@contextmanager
def scope_of_name(scope: str) -> Iterator[None]:
    """Have TensorFlow name variables by this prefix until the block ends."""
    eager = context.context()
    before, eager.scope_name = eager.scope_name, scope
    try:
        yield
    finally:
        eager.scope_name = before


def _initialise(variable: Any, value: Any) -> None:
    _, scope = here.unbound.get(id(variable), (None, context.context().scope_name))
    with scope_of_name(scope):
        variable._initialize(value)
    variable._initializer = None


def without_initialiser(stock: Callable[..., None]) -> Callable[..., None]:
    """Override ``Variable._initialize_with_initializer``: the value comes later."""

    @functools.wraps(stock)
    def _initialize_with_initializer(self: Any, initializer: Any) -> None:
        if in_skeleton():
            self._value = None
            self._initializer = initializer
            _leave_unbound(self)
        else:
            stock(self, initializer)

    return _initialize_with_initializer


def still_deferred(stock: Callable[..., None]) -> Callable[..., None]:
    """Override ``Variable._deferred_initialize``: the value comes later still."""

    @functools.wraps(stock)
    def _deferred_initialize(self: Any) -> None:
        if in_skeleton():
            _leave_unbound(self)
        else:
            stock(self)

    return _deferred_initialize


def made_when_read(stock: Any) -> property:
    """Override ``Variable.value``: who asks for it in a ``build``, say, gets a variable of stock's.

    Within a StatelessScope, or a graph, stock gives a placeholder too.
    """

    def value(self: Any) -> Any:
        if self._value is None and in_skeleton() and _is_wanted_at_once():
            _initialise(self, lambda: self._initializer(self._shape, self._dtype))
        return stock.fget(self)

    return property(value, doc=stock.__doc__)


def _is_wanted_at_once() -> bool:
    return tf.executing_eagerly() and not in_stateless_scope()


def binding(stock: Callable[..., None]) -> Callable[..., None]:
    """Override ``Variable._direct_assign``: the first value is bound, not copied."""

    @functools.wraps(stock)
    def _direct_assign(self: Any, value: Any) -> None:
        if not in_skeleton() or self._value is not None:
            stock(self, value)
        elif isinstance(value, ops.EagerTensor) and value.dtype.name == self._dtype:
            _bind(self, value)
        else:
            _initialise(self, value)

    return _direct_assign


def aliasing(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Override ``Variable._convert_to_tensor``: an array of the right dtype is shared."""

    @functools.wraps(stock)
    def _convert_to_tensor(self: Any, value: Any, dtype: Any = None) -> Any:
        if in_load() and isinstance(value, np.ndarray):
            if in_skeleton():
                here.origins.append((self, value))
            if value.dtype.name == dtype:
                return as_tensor(value)
        return stock(self, value, dtype)

    return _convert_to_tensor


def initialising(stock: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Override ``TFOptimizer._var_key``: it needs the variable to have a value."""

    @functools.wraps(stock)
    def _var_key(self: Any, variable: Any) -> Any:
        # A model inside the model may be compiled before its values have come; its optimizer
        # identifies variables by the TensorFlow variable, so there has to be one.
        if in_skeleton() and getattr(variable, "_value", variable) is None:
            _initialise(variable, lambda: variable._initializer(variable._shape, variable._dtype))
        return stock(self, variable)

    return _var_key
