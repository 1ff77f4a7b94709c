"""The test that functions of a SavedModel can be served without ``tf.saved_model.load``."""

from __future__ import annotations

import functools
import logging
import warnings

import numpy as np
import tensorflow as tf

from asyncload.formats.protobuf import as_view, fields

from ._caller import in_pristine_thread
from ._serving import Draft, Library, assign, variable_handle
from ._variables import as_tensor

__all__ = ["serving_path"]

_logger = logging.getLogger("asyncload")


def _try_everything() -> None:
    """Serve a function that calls another one and reads a variable; compare with what it gave."""
    buffer = np.arange(32, dtype=np.float32)
    start = -buffer.ctypes.data % 64 // buffer.itemsize
    value = buffer[start : start + 4]
    variable = tf.Variable(value)
    # Autograph would rewrite nothing here, and take a fifth of the time of all this.
    traced_as_it_is = functools.partial(
        tf.function, input_signature=[tf.TensorSpec([4], tf.float32)], autograph=False
    )
    inner = traced_as_it_is(lambda x: x * variable)
    outer = traced_as_it_is(lambda x: inner(x) + 1.0)
    traced = outer.get_concrete_function()
    argument = tf.constant([1.0, 2.0, 3.0, 4.0])
    expected = traced(argument).numpy()

    library = Library()
    called = traced.function_def.signature.name
    # What is called stands before what calls it.
    definitions = [*traced.graph.as_graph_def().library.function, traced.function_def]
    known = [definition.signature.name for definition in definitions]
    for name, definition in zip(known, definitions, strict=True):
        content = definition.SerializeToString()
        function = [(number, as_view(value)) for number, _, value in fields(content)]
        library.add(name, Draft(function, known))
    handle = variable_handle(tf.TensorShape([4]).as_proto(), tf.float32.as_datatype_enum, "v")
    assign(handle, as_tensor(value))
    (result,) = library.call(called, [argument, handle])
    if not np.array_equal(result.numpy(), expected):
        raise AssertionError(f"a function gave {result.numpy()} instead of {expected}")
    names, eager = dict(library.names), library._eager
    del library
    if any(eager.has_function(name) for name in names.values()):
        raise AssertionError("functions stay after their library")


@functools.cache
def serving_path() -> bool:
    """Whether the private APIs do what serving needs of them; tried at the first call.

    Warns once if they do not, and says with which version.
    """
    try:
        in_pristine_thread(_try_everything)
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
