"""Models that are gone when they are dropped, and not when the garbage collector comes.

Keras' layers, nodes and symbolic tensors refer to each other in circles, so a dropped model keeps
its weights until a full collection, which stops the program for 100 ms and more. A model that was
loaded here is not in these circles itself. When it goes, what it leaves is looked at, in a thread
of its own, as the collector does: what only refers to itself is taken apart.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import logging
import sys
import threading
import time
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keras.src.backend.common.keras_tensor import KerasTensor
from keras.src.ops.node import Node
from keras.src.saving.keras_saveable import KerasSaveable

from asyncload.resting import in_spells

__all__ = ["free_when_dropped", "noting_layers"]

_logger = logging.getLogger("asyncload")

_PAUSE = 0.00002  # seconds
# Seconds before each look: who dropped it may let go of its parts a little later.
_PAUSES = (0.0, 0.05, 0.5)
# References to a compiled model that nobody has, of two dicts with its layers' `trainable`, and of
# who counts them. Models that were traced have more, and are left to the collector.
_HELD_BY_ITSELF = 4
_MANY = 300_000  # objects; what reaches further than that is left to the collector
_SHARED = (types.ModuleType, type, types.CodeType, types.FrameType, types.BuiltinFunctionType)
_CIRCULAR = (KerasSaveable, Node, KerasTensor)


_compiled: list[tuple[weakref.ref[Any], list[weakref.ref[Any]]]] = []


def free_when_dropped(model: Any, made: Iterable[weakref.ref[Any]]) -> None:
    """Have a model that was just loaded leave nothing behind when its last reference goes.

    Args:
        model: that was loaded.
        made: layers that Keras made for it, those that it dropped on its way among them.
    """
    try:
        for name in ("build", "quantize"):
            _loosen(model, vars(model)[name])
        parts = (each for each in vars(model).values() if isinstance(each, _CIRCULAR))
        left = [*(each for each in made if each() is not model), *map(weakref.ref, parts)]
        weakref.finalize(model, _begin, _free, left).atexit = False
        _begin(_free_compiled)
        if model.compiled:
            _compiled.append((weakref.ref(model), left))
    except Exception:  # a model that is like no other: the collector frees it
        _logger.debug("%r is freed by the garbage collector", type(model), exc_info=True)


def _loosen(model: Any, wrapper: Any) -> None:
    """Have what Keras wraps a model's method in, and keeps in the model, refer to it weakly."""
    for cell in wrapper.__closure__:
        content = cell.cell_contents
        if content is model:
            cell.cell_contents = weakref.proxy(model)
        elif isinstance(content, types.MethodType) and content.__self__ is model:
            cell.cell_contents = wrapper.__wrapped__ = _weak(content)


def _weak(method: types.MethodType) -> Callable[..., Any]:
    reference, function = weakref.ref(method.__self__), method.__func__

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(reference(), *args, **options)

    del call.__wrapped__
    call.__dict__["__signature__"] = inspect.signature(method)
    return call


def noting_layers(stock: Callable[..., Any], note: Callable[[Any], None]) -> Callable[..., Any]:
    """Override ``functional.deserialize_node``: note the dict that its caller never lets go.

    ``functional_from_config`` keeps all layers in it, and itself, by functions that call each
    other.
    """

    @functools.wraps(stock)
    def deserialize_node(node_data: Any, created_layers: Any) -> Any:
        note(created_layers)
        return stock(node_data, created_layers)

    return deserialize_node


# --- what a dropped model leaves -----------------------------------------------------------


def _begin(work: Callable[..., None], *args: Any) -> None:
    # In whatever thread the model was dropped, often the event loop's.
    thread = threading.Thread(target=work, args=args, name="asyncload-drop", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter ends
        _logger.debug("no thread to free a dropped model in", exc_info=True)


def _free(left: list[weakref.ref[Any]]) -> None:
    try:
        for pause in _PAUSES:
            time.sleep(pause)
            _take_apart(_garbage([reference() for reference in left]))
            if all(reference() is None for reference in left):
                break
    except Exception:
        _logger.debug("a dropped model is left to the garbage collector", exc_info=True)


def _free_compiled() -> None:
    """Free the compiled models that were dropped before this load: they hold themselves."""
    for entry in list(_compiled):
        reference, left = entry
        model = reference()
        if model is None:
            with contextlib.suppress(ValueError):  # the thread of another load was first
                _compiled.remove(entry)
        elif sys.getrefcount(model) <= _HELD_BY_ITSELF:
            del model
            _free([reference, *left])
        model = None


def _garbage(roots: list[Any]) -> list[Any]:
    """Return the circular objects that only what they reach themselves refers to.

    Args:
        roots: where to begin, or ``None`` for what is gone; the list is emptied.
    """
    roots.append([])  # one that nobody else has, to see how many references are this function's
    known: dict[int, Any] = {id(each): each for each in reversed(roots) if each is not None}
    queue = list(known.values())
    roots.clear()
    inner: Counter[int] = Counter()
    edges: dict[int, list[int]] = {}
    for one in _slowly(queue):  # grows meanwhile
        edges[id(one)] = reached = []
        for other in _referents(one):
            key = id(other)
            inner[key] += 1
            reached.append(key)
            if key not in known:
                known[key] = other
                queue.append(other)
        if len(queue) > _MANY:
            return []
    one = other = None
    alive: set[int] = set()
    own = 0
    for one in _slowly(queue):
        number = sys.getrefcount(one) - inner[id(one)]
        own = own or number
        if number > own:
            alive.add(id(one))
    one = None
    pending = list(alive)
    while pending:
        news = [key for key in edges[pending.pop()] if key not in alive]
        alive.update(news)
        pending += news
    return [each for key, each in known.items() if key not in alive and isinstance(each, _CIRCULAR)]


def _referents(one: Any) -> list[Any]:
    return [each for each in gc.get_referents(one) if not _is_shared(each)]


def _is_shared(one: Any) -> bool:
    """Whether it is none of a model's, and leads to all that the program has."""
    if type(one) is dict:
        return "__builtins__" in one or "__spec__" in one  # a module's
    return not gc.is_tracked(one) or isinstance(one, _SHARED)


def _take_apart(garbage: list[Any]) -> None:
    if any(hasattr(type(each), "__del__") for each in garbage):
        return  # which may look at the others
    for each in _slowly(garbage):
        vars(each).clear()


def _slowly(items: Iterable[Any]) -> Iterator[Any]:
    return in_spells(items, lambda: time.sleep(_PAUSE))
