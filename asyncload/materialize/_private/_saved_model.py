"""A SavedModel's objects, made by TensorFlow's own loader, which stops before their values."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.saved_model import load as load_lib
from tensorflow.python.trackable.resource import CapturableResource

from asyncload.forks import OwnLock

from . import _functions

__all__ = ["NoObjectGraph", "Reconstruction"]

_here = threading.local()  # .active: the Reconstruction that is under way on this thread
_install_lock = OwnLock()


class NoObjectGraph(Exception):
    """The SavedModel is one of TensorFlow 1, which has a graph and no objects."""


class Reconstruction:
    """The object that ``tf.saved_model.load`` returns, in two steps.

    Args:
        folder: that holds ``saved_model.pb``. Assets have to be there when it is finished.
        tags: of the graph; ``None`` for the only one.

    Attributes:
        folder: the same.
        root: the object; its variables have no values yet.
        nodes: what it was made of.

    Raises:
        NoObjectGraph: as it says.
    """

    def __init__(self, folder: str, tags: Collection[str] | None = None) -> None:
        _install()
        self.folder = folder
        self.nodes: list[Any] = []
        _here.active = self
        try:
            with _functions.quick_functions():
                self.root = tf.saved_model.load(folder, tags)
        finally:
            _here.active = None

    def finish(self) -> None:
        """Initialise tables and other resources, as TensorFlow does when variables have values."""
        with ops.init_scope():
            for node in self.nodes:
                if isinstance(node, CapturableResource):
                    node._initialize()
        self.nodes = []


def _under_way(folder: Any) -> Reconstruction | None:
    """Return the Reconstruction of a folder, unless another SavedModel is loaded meanwhile."""
    active: Reconstruction | None = getattr(_here, "active", None)
    return active if active is not None and active.folder == folder else None


class _NoneToInitialise(list[Any]):
    """Nodes by number, through which ``Loader.__init__`` looks for resources in vain."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def _stopping_before_values(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    """Override ``Loader._restore_checkpoint``: values come later, and resources after them."""

    @functools.wraps(stock)
    def _restore_checkpoint(self: Any) -> None:
        active = _under_way(self._export_dir)
        if active is None:
            stock(self)
        else:
            active.nodes = self._nodes
            self._nodes = _NoneToInitialise(self._nodes)

    return _restore_checkpoint


def _refusing(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Override ``load_v1_in_v2.load``: it would read the values too."""

    @functools.wraps(stock)
    def load(export_dir: Any, *args: Any, **kwargs: Any) -> Any:
        if _under_way(export_dir) is not None:
            raise NoObjectGraph
        return stock(export_dir, *args, **kwargs)

    return load


def _install() -> None:
    """Put the overrides in place, once; where no Reconstruction is under way each calls stock."""
    with _install_lock:
        loader = load_lib.Loader
        if hasattr(loader._restore_checkpoint, "__wrapped__"):
            return
        loader._restore_checkpoint = _stopping_before_values(loader._restore_checkpoint)
        load_lib.load_v1_in_v2.load = _refusing(load_lib.load_v1_in_v2.load)
        _functions.install()
