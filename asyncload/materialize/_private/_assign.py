"""New values for variables that live: all of them, or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.layers.layer import Layer
from tensorflow.python.ops import gen_resource_variable_ops, resource_variable_ops

from ._variables import here

__all__ = ["Recording", "Snapshot", "assign_value", "read_value", "recording"]

_Variable = resource_variable_ops.ResourceVariable


class Recording(keras.StatelessScope):  # type: ignore[misc]
    """Values that were assigned to Keras variables on this thread, and are not in them yet.

    While it is active, what reads a variable on this thread sees its new value.
    """

    def __init__(self) -> None:
        super().__init__()
        self._assigned: dict[int, Any] = {}

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Take note of a value; called by ``Variable.assign``, which has compared the shapes."""
        variable, value = update
        self._assigned[id(variable)] = variable
        super().add_update((variable, tf.cast(value, variable.dtype)))

    def commit(self) -> None:
        """Assign the values, to the variables as they are: traced functions stay traced."""
        before = []
        try:
            for key, variable in self._assigned.items():
                before.append((variable._value, read_value(variable._value)))
                assign_value(variable._value, self.state_mapping[key])
        except BaseException:
            for holder, value in before:
                assign_value(holder, value)
            raise


@contextmanager
def recording(*, quick: bool) -> Iterator[Recording]:
    """Record on this thread what is assigned to Keras variables, until the block ends.

    Args:
        quick: whether arrays are shared, and a model's state is walked as in a `Skeleton`;
            otherwise Keras copies each array.
    """
    outer = getattr(here, "recording", False)
    here.recording = quick
    try:
        with Recording() as recorded:
            yield recorded
    finally:
        here.recording = outer


def read_value(holder: Any) -> Any:
    """Return the value of a TensorFlow variable, which shares its memory until it is updated."""
    if type(holder) is _Variable:
        return gen_resource_variable_ops.read_variable_op(holder.handle, holder.dtype)
    return holder.read_value()


def assign_value(holder: Any, value: Any) -> None:
    """Give a TensorFlow variable a value, whose memory it shares until it is updated."""
    if type(holder) is _Variable and holder.shape == value.shape:
        gen_resource_variable_ops.assign_variable_op(holder.handle, value)
    else:
        holder.assign(value)


class Snapshot:
    """What a load may change in a model besides what a `Recording` holds back.

    Layers with a ``load_own_variables`` or ``finalize_state`` of their own may set attributes, and
    TensorFlow variables that are not Keras'. What they change inside the values of their
    attributes, such as a list, is not seen.

    Args:
        target: the model, or layer.
        values: whether the values of all variables may change too.
    """

    def __init__(self, target: Any, *, values: bool = False) -> None:
        layers = list(target._flatten_layers())
        peculiar = [layer for layer in layers if _sets_more_than_variables(layer)]
        self._attributes = [(layer, dict(vars(layer))) for layer in peculiar]
        holders = list(_raw_variables(peculiar))
        if values:
            holders += [variable._value for variable in _variables(layers)]
        self._values = [(holder, read_value(holder)) for holder in holders]

    def restore(self) -> None:
        """Put everything back as it was."""
        for layer, attributes in self._attributes:
            now = vars(layer)
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update(attributes)
        for holder, value in self._values:
            assign_value(holder, value)


def _sets_more_than_variables(layer: Any) -> bool:
    own = type(layer).load_own_variables is not Layer.load_own_variables
    return own or hasattr(layer, "finalize_state")


def _raw_variables(layers: Iterable[Any]) -> Iterator[Any]:
    for layer in layers:
        yield from (value for value in vars(layer).values() if isinstance(value, tf.Variable))


def _variables(layers: Iterable[Any]) -> Iterator[Any]:
    for layer in layers:
        yield from layer._trainable_variables
        yield from layer._non_trainable_variables
        optimizer = getattr(layer, "optimizer", None)
        if optimizer is not None:
            yield from optimizer.variables
