"""The test that functions of a SavedModel can be served without ``tf.saved_model.load``."""

from __future__ import annotations

import functools
import logging
import warnings

import numpy as np
import tensorflow as tf

from ._functions import Library, rename_calls, variable_handle
from ._variables import as_tensor

__all__ = ["serving_path"]

_logger = logging.getLogger("asyncload")


def _try_everything() -> None:
    """Serve a function that calls another one and reads a variable; compare with what it gave."""
    buffer = np.arange(32, dtype=np.float32)
    start = -buffer.ctypes.data % 64 // buffer.itemsize
    value = buffer[start : start + 4]
    variable = tf.Variable(value)
    inner = tf.function(lambda x: x * variable, input_signature=[tf.TensorSpec([4], tf.float32)])
    outer = tf.function(lambda x: inner(x) + 1.0, input_signature=[tf.TensorSpec([4], tf.float32)])
    traced = outer.get_concrete_function()
    argument = tf.constant([1.0, 2.0, 3.0, 4.0])
    expected = traced(argument).numpy()

    library = Library()
    called = traced.function_def.signature.name
    definitions = [*traced.graph.as_graph_def().library.function, traced.function_def]
    known = {definition.signature.name: definition for definition in definitions}
    for name, function in known.items():
        nodes = [node.SerializeToString() for node in function.node_def]
        rename_calls(nodes, [node.op for node in function.node_def], library, known)
        del function.node_def[:]
        for node in nodes:
            function.node_def.add().ParseFromString(node)
        function.signature.name = library.new_name(name)
        outputs = [result.type for result in function.signature.output_arg]
        library.add(name, function.SerializeToString(), outputs)
    handle = variable_handle([4], tf.float32, "v")
    tensor = as_tensor(value)
    tf.raw_ops.AssignVariableOp(resource=handle, value=tensor)
    (result,) = library.call(called, [argument, handle])
    if not np.array_equal(result.numpy(), expected):
        raise AssertionError(f"a function gave {result.numpy()} instead of {expected}")
    (names, context) = library._registered, library._eager
    del library
    if any(context.has_function(name) for name in names):
        raise AssertionError("functions stay after their library")


@functools.cache
def serving_path() -> bool:
    """Whether the private APIs do what serving needs of them; tried at the first call.

    Warns once if they do not, and says with which version.
    """
    try:
        _try_everything()
    except Exception as error:
        _logger.debug("the fast path for SavedModels failed its self-test", exc_info=True)
        warnings.warn(
            "asyncload cannot use its fast path for SavedModels with TensorFlow "
            f"{tf.__version__} ({error}); they load through tf.saved_model.load instead, slower, "
            "with the same result",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
