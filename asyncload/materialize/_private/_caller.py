"""What the thread that asks for a load has set, taken to the thread that carries the load out.

Keras and TensorFlow keep scopes, settings and counters by thread. Those that a load reads were
found by counting reads of `threading.local` while stock loaded; all of them are taken along.
"""

from __future__ import annotations

import collections
import copy
import random
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from tensorflow.python.eager import context
from tensorflow.python.framework import ops, stack
from tensorflow.python.framework.traceable_stack import TraceableStack
from tensorflow.python.ops import summary_ops_v2, variable_scope
from tensorflow.python.util import traceback_utils

from asyncload.resting import carried

__all__ = ["CapturedScopes", "in_pristine_thread", "install"]

Result = TypeVar("Result")
Values = dict[str, Any]

_POLICY = "dtype_policy"
_NAMES = "object_name_uids"  # Keras' counters of automatic names

# Keras' scopes in which it makes other variables, or none, and what to call them.
_KERAS_SCOPES = {
    "stateless_scope": "a keras.StatelessScope",
    "symbolic_scope": "a SymbolicScope of Keras",
    "distribution": "a keras.distribution",
    "autocast_scope": "an AutocastScope of Keras",
    "current_call_ctx": "the call of a layer",
    "in_tf_graph_scope": "a TFGraphScope of Keras",
}
# The same of TensorFlow, each a list that belongs to the default graph.
_GRAPH_SCOPES = {
    "_distribution_strategy_stack": "a tf.distribute scope",
    "_variable_creator_stack": "a tf.variable_creator_scope",
    "_control_dependencies_stack": "tf.control_dependencies",
}
_PLACES = frozenset({None, "CPU", "GPU"})  # device types on which variables are ordinary ones

# What changes as models are made, and does not decide what a load returns.
_COUNTERS = frozenset({_NAMES, "uninitialized_variables", "variable_scopes_count", "device_spec"})
_CACHES = ("saving_attr_", "shared_objects/", "_keras_")
_DEFAULTS = {"tracking_on": True, "traceback_filtering": True, "interactive_logging": True}


_here = threading.local()  # .scopes: those that are entered on this thread


class _Names(dict[str, int]):
    """Keras' counters of automatic names: the caller's own, and which of them a load moved.

    Args:
        shared: the caller's.
    """

    def __init__(self, shared: dict[str, int]) -> None:
        super().__init__()
        self.shared = shared
        self._moved: dict[str, tuple[int, int]] = {}  # name -> from where, to where

    def __contains__(self, name: object) -> bool:
        return name in self.shared

    def __getitem__(self, name: str) -> int:
        return self.shared[name]

    def __setitem__(self, name: str, number: int) -> None:
        first, _ = self._moved.get(name, (self.shared.get(name, 0), 0))
        self._moved[name] = first, number
        self.shared[name] = number

    def rewind(self) -> None:
        """Move them back, but for those that others have moved since."""
        for name, (first, last) in self._moved.items():
            if self.shared.get(name) == last:
                self.shared[name] = first
                if not first:
                    del self.shared[name]
        self._moved.clear()


class CapturedScopes:
    """The state of the thread that makes it; called, it enters that on another thread.

    Args:
        nothing_of: another thread, which has set nothing, in the place of the one that makes it.

    Attributes:
        found: what is set in it, for comparison.
        reason: why only Keras and TensorFlow themselves can load in it, if that is so.
        place: the device, and the prefix of names, that variables get in it.
    """

    def __init__(self, *, nothing_of: int | None = None) -> None:
        self._thread = threading.get_ident() if nothing_of is None else nothing_of
        self._keras: Values = {}
        self._drawn: list[int] = []
        self._drawn_before: list[int] = []
        self._threads: list[tuple[Any, Values]] = []
        self._eager: Values = {}
        self._policy: str | None = None
        self._original: Values = {}
        self.found: Mapping[str, Any] = {}
        self.reason: str | None = None
        self.place = ("", "")
        if nothing_of is None:
            self._capture()
        self._names = _Names(self._keras.get(_NAMES, collections.defaultdict(int)))
        self._keras[_NAMES] = self._names
        self._before = dict(self._keras)

    def _capture(self) -> None:
        policy = keras.config.dtype_policy()  # Keras keeps the default one from its first use on
        global_state.get_global_attribute(_NAMES, collections.defaultdict(int), set_to_default=True)
        self._original = dict(vars(global_state.GLOBAL_STATE_TRACKER))
        self._keras = _copied(self._original)
        self._threads = [(each, _copied(vars(each))) for each in _kept_by_thread()]
        self._eager = _eager_state()
        self._policy = tf.config.experimental.get_device_policy()
        self.place = str(self._eager["device_name"] or ""), str(self._eager["scope_name"] or "")
        self.reason = self._find_reason()
        self.found = {
            "keras": {**_telling(self._keras), _POLICY: keras.dtype_policies.serialize(policy)},
            "tensorflow": [_telling(values) for _, values in self._threads],
            "eager": _telling(self._eager),
            "policy": self._policy,
        }

    def _find_reason(self) -> str | None:
        # None, or False: Keras leaves either where a scope was.
        entered = [name for name in _KERAS_SCOPES if self._keras.get(name) not in (None, False)]
        names = [_KERAS_SCOPES[name] for name in entered]
        if self._keras.get("tracking_on") is False:
            names.append("a DotNotTrackScope of Keras")
        for _, values in self._threads:
            names += [text for name, text in _GRAPH_SCOPES.items() if values.get(name)]
            if any((values.get("_resource_creator_stack") or {}).values()):
                names.append("a resource_creator_scope of TensorFlow")
        if not self._eager["is_eager"]:
            names.append("a tf.Graph")
        if self._eager["op_callbacks"]:
            names.append("callbacks of tf.debugging")
        if getattr(self._eager["device_spec"], "device_type", None) not in _PLACES:
            names.append(f"the device {self._eager['device_name']}")
        return f"it was asked for within {names[0]}" if names else None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Enter the state on this thread until the block ends; may be entered again within."""
        outer = getattr(_here, "scopes", None)
        if outer is self:
            yield
            return
        _here.scopes = self
        tracker = global_state.GLOBAL_STATE_TRACKER
        try:
            with ExitStack() as entered:
                entered.enter_context(_installed(tracker, self._keras))
                for local, values in self._threads:
                    entered.enter_context(_installed(local, values))
                entered.enter_context(_eager_installed(self._eager))
                entered.enter_context(_device_policy(self._policy))
                try:
                    yield
                finally:
                    self._keras = dict(vars(tracker))
        finally:
            _here.scopes = outer

    def again(self) -> CapturedScopes:
        """Return the same for another load, as they were when they were captured."""
        made = copy.copy(self)
        made._drawn, made._drawn_before = [], []
        made._threads = [(each, _copied(values)) for each, values in self._threads]
        made._names = _Names(self._names.shared)
        made._keras = {**_copied(self._before), _NAMES: made._names}
        made._before = dict(made._keras)
        return made

    def rewind(self) -> None:
        """Begin anew: what comes next gets the names and seeds that an attempt has used up."""
        self._names.rewind()
        self._drawn, self._drawn_before = [], [*self._drawn, *self._drawn_before]

    def draw(self, low: int, high: int) -> int:
        """Return the next one of the program's random numbers."""
        again = self._drawn_before
        number = again.pop(0) if again else random.randint(low, high)  # noqa: S311 - as stock
        self._drawn.append(number)
        return number

    def hand_back(self) -> None:
        """Set in the thread that was captured what Keras would have left set in it.

        Nothing happens in another thread, and nothing is changed that the program set meanwhile.
        """
        if threading.get_ident() != self._thread:
            return
        now = vars(global_state.GLOBAL_STATE_TRACKER)
        if _NAMES not in now:
            now[_NAMES] = self._names.shared
        for name, value in self._keras.items():
            changed = value is not self._before.get(name)
            if changed and now.get(name) is self._original.get(name):
                now[name] = self._original[name] = value
        self._before = dict(self._keras)


def install() -> None:
    """Have Keras draw seeds through the scopes of this thread; where there are none, as stock."""
    stock = seed_generator.python_random
    ours = types.ModuleType("random")
    ours.__dict__.update(vars(stock))

    def randint(low: int, high: int) -> int:
        scopes: CapturedScopes | None = getattr(_here, "scopes", None)
        return stock.randint(low, high) if scopes is None else scopes.draw(low, high)

    ours.__dict__["randint"] = randint
    seed_generator.python_random = ours


def in_pristine_thread(function: Callable[[], Result]) -> Result:
    """Call a function where nothing is set, and where what it counts counts for nobody."""
    with ThreadPoolExecutor(1, thread_name_prefix="asyncload-pristine") as executor:
        return executor.submit(carried(function)).result()


def _kept_by_thread() -> Iterator[Any]:
    """Yield the `threading.local` objects of TensorFlow that a load reads."""
    graphs = ops._default_graph_stack
    current = ops.get_default_graph()
    yield from (graphs, stack._default_session_stack, context.context().context_switches)
    yield from (traceback_utils._ENABLE_TRACEBACK_FILTERING, summary_ops_v2._summary_state)
    for graph in {id(each): each for each in (current, *graphs.stack)}.values():
        yield graph._thread_local
        yield from graph.get_collection(variable_scope._VARSCOPESTORE_KEY)


_EAGER = ("is_eager", "scope_name", "device_name", "device_spec", "op_callbacks")


def _eager_state() -> Values:
    data = context.context()._thread_local_data
    return _copied({name: getattr(data, name) for name in _EAGER})


@contextmanager
def _eager_installed(values: Values) -> Iterator[None]:
    data, before = context.context()._thread_local_data, _eager_state()
    _set_all(data, values)
    try:
        yield
    finally:
        _set_all(data, before)


def _set_all(data: Any, values: Values) -> None:
    for name, value in values.items():
        setattr(data, name, value)


@contextmanager
def _device_policy(policy: str | None) -> Iterator[None]:
    config = tf.config.experimental
    before = config.get_device_policy()
    if policy in (None, before):
        yield
        return
    config.set_device_policy(policy)
    try:
        yield
    finally:
        config.set_device_policy(before)


@contextmanager
def _installed(local: Any, values: Values) -> Iterator[None]:
    """Have a `threading.local` hold these values on this thread until the block ends."""
    here = vars(local)
    before = dict(here)
    here.clear()
    here.update(values)
    try:
        yield
    finally:
        here.clear()
        here.update(before)


def _copied(values: Mapping[str, Any]) -> Values:
    """Return the values, with copies of those stacks that scopes push to and pop from."""
    return {name: _copy(value) for name, value in values.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, TraceableStack):
        return value.copy()
    if type(value) is collections.defaultdict and value.default_factory is list:
        return collections.defaultdict(list, {key: list(each) for key, each in value.items()})
    return list(value) if type(value) is list else value


def _telling(values: Mapping[str, Any]) -> Values:
    """Return what differs from a thread that has set nothing."""
    told = {name: _flat(value) for name, value in values.items() if not _is_a_count(name)}
    return {
        name: value
        for name, value in told.items()
        if (value or value is False) and value is not _DEFAULTS.get(name)
    }


def _is_a_count(name: str) -> bool:
    return name in _COUNTERS or name.startswith(_CACHES)


def _flat(value: Any) -> Sequence[Any] | Any:
    return list(value.peek_objs()) if isinstance(value, TraceableStack) else value
