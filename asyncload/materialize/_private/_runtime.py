"""TensorFlow's C API, called without the GIL where its Python binding keeps it."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe

__all__ = ["add_function"]

_LIBRARY = "libtensorflow_cc.2.dylib" if sys.platform == "darwin" else "libtensorflow_cc.so.2"

Add = Callable[[Any, bytes], bool]


def add_function(eager: Any, definition: bytes) -> None:
    """Register a function with the eager runtime.

    The binding would hold the GIL for as long as it takes: 10 ms for 1.6 MB.

    Args:
        eager: the `context.Context`.
        definition: a serialized ``FunctionDef``.

    Raises:
        tf.errors.OpError: the runtime refuses it.
    """
    add = _without_gil()
    if add is None or not add(eager._handle, definition):
        pywrap_tfe.TFE_ContextAddFunctionDef(eager._handle, definition, len(definition))


@functools.cache
def _without_gil() -> Add | None:
    """Return what calls ``TFE_ContextAddFunctionDef`` of tensorflow/c/eager/c_api.h, if it can.

    That returns whether the runtime took the function; the binding says why it did not.
    """
    try:
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), _LIBRARY))
        new, code, delete = library.TF_NewStatus, library.TF_GetCode, library.TF_DeleteStatus
        function = library.TFE_ContextAddFunctionDef
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
    except (OSError, AttributeError):
        return None
    new.restype = ctypes.c_void_p
    code.argtypes = delete.argtypes = (ctypes.c_void_p,)
    function.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    function.restype = delete.restype = None
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p

    def add(handle: Any, definition: bytes) -> bool:
        status = new()
        try:
            function(pointer(handle, None), definition, len(definition), status)
            return bool(code(status) == 0)
        finally:
            delete(status)

    return add
