"""Trackable objects: what they are made of, and how values get into them without RestoreV2.

What `tf.train.Checkpoint` asks of objects is asked here in the same order, so that whatever
it can restore has its values put in by the object's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.python.checkpoint import checkpoint as checkpoint_lib
from tensorflow.python.checkpoint import restore, saveable_compat
from tensorflow.python.framework import errors, ops
from tensorflow.python.ops import gen_resource_variable_ops, resource_variable_ops
from tensorflow.python.saved_model import registration
from tensorflow.python.trackable import base, constants, python_state, trackable_utils
from tensorflow.python.trackable.converter import convert_to_trackable
from tensorflow.python.training.saving import saveable_object_util

from ._variables import Array, as_tensor

__all__ = [
    "CannotRestore",
    "Restorable",
    "TargetGraph",
    "Wanted",
    "describe",
    "global_restorables",
    "has_values",
    "is_checkpoint",
    "is_trackable",
    "restorables",
]

_Variable = resource_variable_ops.BaseResourceVariable
_VALUE = constants.VARIABLE_VALUE_KEY
_WHOLE_OBJECT = trackable_utils.SERIALIZE_TO_TENSORS_NAME


class CannotRestore(Exception):
    """An object wants more than its tensors to be restored; the message says what."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tensor that an object takes.

    Attributes:
        key: in the checkpoint.
        dtype: that it has to have.
        shape: that it has to fit; ``None`` if the object says only when it is restored.
        part: which part of it, as RestoreV2 takes it; ``""`` for all.
    """

    key: str
    dtype: tf.DType
    shape: tf.TensorShape | None = None
    part: str = ""


class Restorable(Protocol):
    """The values that one object takes together.

    Attributes:
        wanted: what it takes, in order.
    """

    wanted: Sequence[Wanted]

    def keep(self) -> Callable[[], None]:
        """Hold the present values, and return what puts them back."""
        ...

    def put(self, arrays: Sequence[Array]) -> None:
        """Give the object its values; the arrays are those that are `wanted`."""
        ...


class _VariableValue:
    """The value of a variable on the CPU, which shares the array's memory."""

    def __init__(self, variable: Any, key: str) -> None:
        self._variable = variable
        self.wanted: Sequence[Wanted] = (Wanted(key, variable.dtype, variable.shape),)

    def keep(self) -> Callable[[], None]:
        handle, dtype = self._variable.handle, self._variable.dtype
        try:
            before = gen_resource_variable_ops.read_variable_op(handle, dtype)
        except errors.FailedPreconditionError:
            # It had no value, and TensorFlow has no way back to that which keeps the handle.
            return lambda: None
        return lambda: gen_resource_variable_ops.assign_variable_op(handle, before)

    def put(self, arrays: Sequence[Array]) -> None:
        (array,) = arrays
        value = _to_tensor(array, self._variable.dtype)
        gen_resource_variable_ops.assign_variable_op(self._variable.handle, value)


class _PythonState:
    """State that an object keeps in Python, as bytes."""

    def __init__(self, trackable: Any, key: str) -> None:
        self._trackable = trackable
        self.wanted: Sequence[Wanted] = (Wanted(key, tf.string, tf.TensorShape(())),)

    def keep(self) -> Callable[[], None]:
        before = tf.compat.as_bytes(self._trackable.serialize())
        return lambda: self._trackable.deserialize(before)

    def put(self, arrays: Sequence[Array]) -> None:
        (array,) = arrays
        self._trackable.deserialize(array.item())


class _Saveable:
    """What TensorFlow's own saver would restore: tables, generators, objects of the user's."""

    def __init__(self, saveable: Any) -> None:
        self._saveable = saveable
        self._device = saveable_object_util.set_cpu0(str(saveable.specs[0].device or ""))
        self.wanted: Sequence[Wanted] = [
            Wanted(_text(spec.name), tf.as_dtype(spec.dtype), *self._shape_and_part(spec))
            for spec in saveable.specs
        ]

    def _shape_and_part(self, spec: Any) -> tuple[tf.TensorShape | None, str]:
        part = _text(spec.slice_spec)
        if part:
            return tf.TensorShape([int(size) for size in part.split(" ")[:-1]]), part
        variable = self._saveable.op
        simple = isinstance(variable, _Variable) and len(self._saveable.specs) == 1
        return variable.shape if simple else None, ""

    def keep(self) -> Callable[[], None]:
        before = [spec.tensor for spec in self._saveable.specs]
        if any(tensor is None for tensor in before):
            return lambda: None
        return lambda: self._restore(before)

    def put(self, arrays: Sequence[Array]) -> None:
        pairs = zip(arrays, self.wanted, strict=True)
        with ops.device("/device:CPU:0"):
            tensors = [_to_tensor(_part(array, w.part), w.dtype) for array, w in pairs]
        self._restore(tensors)

    def _restore(self, tensors: Sequence[Any]) -> None:
        with ops.init_scope(), ops.device(self._device):
            self._saveable.restore(list(tensors), restored_shapes=None)


def _text(value: Any) -> str:
    return str(tf.compat.as_str(value.numpy() if hasattr(value, "numpy") else value))


def _to_tensor(array: Array, dtype: tf.DType) -> Any:
    if dtype == tf.variant:
        return _variants(array)
    if array.dtype == object:
        return tf.constant(array, dtype=tf.string, shape=array.shape)
    return as_tensor(array)


def _variants(array: Array) -> Any:
    """Return the tensor of an object array of serialised ``VariantTensorDataProto``."""
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_VARIANT)
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    for element in array.flat:
        proto.variant_val.add().ParseFromString(element)
    return tf.io.parse_tensor(proto.SerializeToString(), tf.variant)


def _part(array: Array, part: str) -> Array:
    """Return the part of an array that a RestoreV2 ``shape_and_slice`` names."""
    if not part:
        return array
    _, _, slices = part.rpartition(" ")
    ranges = []
    for text in slices.split(":"):
        start, _, length = text.partition(",")
        ranges.append(slice(None) if text == "-" else slice(int(start), int(start) + int(length)))
    return np.ascontiguousarray(array[tuple(ranges)])


# --- what an object takes --------------------------------------------------------------


def is_trackable(thing: Any) -> bool:
    """Whether `tf.train.Checkpoint` takes it."""
    return isinstance(thing, base.Trackable)


def is_checkpoint(thing: Any) -> bool:
    """Whether it is a `tf.train.Checkpoint`, of TensorFlow 2 or 1."""
    return isinstance(thing, (tf.train.Checkpoint, tf.compat.v1.train.Checkpoint))


def has_values(trackable: Any) -> bool:
    """Whether the object itself, apart from its children, writes anything to a checkpoint."""
    return _plain_variable(trackable) is not None or bool(_factories(trackable))


def describe(trackable: Any) -> str:
    """Say what an object holds, for messages."""
    if isinstance(trackable, (_Variable, keras.Variable)):
        dtype = trackable.dtype
        return f"{trackable.shape} {dtype if isinstance(dtype, str) else dtype.name}"
    return f"a {type(trackable).__name__}"


def _factories(trackable: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = saveable_object_util.saveable_objects_from_trackable(trackable)
    return found


def _plain_variable(trackable: Any) -> Any:
    """Return the variable whose value can be assigned as it is; ``None`` for anything else."""
    kind: Any = type(trackable)
    if isinstance(trackable, keras.Variable):
        if kind._restore_from_tensors is not keras.Variable._restore_from_tensors:
            return None
        trackable = trackable._value
        kind = type(trackable)
    if (
        isinstance(trackable, _Variable)
        and kind._restore_from_tensors is _Variable._restore_from_tensors
        and kind._serialize_to_tensors is _Variable._serialize_to_tensors
        and trackable.handle.device.endswith("/device:CPU:0")
    ):
        return trackable
    return None


def restorables(
    trackable: Any, attributes: Sequence[tuple[str, str]], saver: str
) -> list[Restorable]:
    """Return what an object takes from a checkpoint.

    Args:
        trackable: the object.
        attributes: (name, key) of what was saved of it.
        saver: the registered saver that saved it, or ``""``.

    Raises:
        CannotRestore: the object reads files of its own.
    """
    saver = saver or (registration.get_registered_saver_name(trackable) if attributes else "")
    if saver:
        raise CannotRestore(f"was saved by {saver!r}, which reads files of its own")
    if not attributes:
        return []
    prefix = restore._extract_saveable_name(attributes[0][1])
    variable = _plain_variable(trackable)
    if variable is not None:
        return [_VariableValue(variable, prefix + _VALUE)]
    if isinstance(trackable, python_state.PythonState):
        return [_PythonState(trackable, attributes[0][1])]
    found = _factories(trackable)
    if found.keys() == {_WHOLE_OBJECT}:
        name = prefix + (saveable_compat.get_saveable_name(trackable) or "")
        saveables = {name: found[_WHOLE_OBJECT](name=name)}
    else:
        saveables = _by_attribute(found, attributes)
    return [_Saveable(s) for s in saveable_object_util.validate_and_slice_inputs(saveables)]


def _by_attribute(found: Mapping[str, Any], attributes: Sequence[tuple[str, str]]) -> Any:
    saveables = {}
    made: set[str] = set()  # names of factories that read several attributes
    for name, key in attributes:
        if any(name.startswith(one) for one in made):
            continue
        attribute = _Attribute(name, key)
        saveable = restore._get_saveable_from_factory(found, attribute, made)
        if saveable is not None:
            saveables[key] = saveable
    return saveables


@dataclass(frozen=True, slots=True)
class _Attribute:
    """As much of a ``SerializedTensor`` as TensorFlow looks at."""

    name: str
    checkpoint_key: str


def global_restorables(trackable: Any) -> list[Restorable]:
    """Return what an object takes from a name-based checkpoint, as ``Checkpoint.restore`` does."""
    names = checkpoint_lib._NameBasedRestoreCoordinator(save_path="", dtype_map={})
    variable = _plain_variable(trackable)
    if variable is not None:
        return [_VariableValue(variable, variable._shared_name)]
    return [_Saveable(s) for s in names.globally_named_object_attributes(trackable)]


# --- how objects hang together ---------------------------------------------------------


class TargetGraph:
    """A trackable object and everything below it, as ``tf.train.Checkpoint`` sees it.

    Each object's children are asked for once, so that wrappers made for them stay the same.

    Args:
        target: a `tf.train.Checkpoint`, or what one would be made of.

    Attributes:
        is_checkpoint: which of the two it is.
        root: what node 0 of a checkpoint stands for.
        attached: what a `tf.train.Checkpoint` adds to its root's children, by local name.
    """

    def __init__(self, target: Any) -> None:
        self.is_checkpoint = is_checkpoint(target)
        view = target._saver._graph_view if self.is_checkpoint else None
        self.root = target if view is None else view.root
        attached = () if view is None else view.attached_dependencies or ()
        self.attached = {ref.name: ref.ref for ref in attached if ref.name != "root"}
        self._children: dict[int, tuple[Any, dict[str, Any]]] = {}

    def children(self, trackable: Any) -> Mapping[str, Any]:
        """Return the children that an object tracks itself, by local name."""
        kept = self._children.get(id(trackable))
        if kept is None:
            trackable._maybe_initialize_trackable()
            children = {
                name: convert_to_trackable(child, parent=trackable)
                for name, child in trackable._trackable_children().items()
            }
            kept = self._children[id(trackable)] = (trackable, children)
        return kept[1]

    def child(self, trackable: Any, name: str) -> Any:
        """Return the child of a name, or ``None``."""
        return trackable._lookup_dependency(name, self.children(trackable))

    def slot(self, optimizer: Any, variable: Any, name: str) -> Any:
        """Return what an optimizer keeps for a variable, or ``None`` if it has not made it."""
        if not hasattr(optimizer, "_create_or_restore_slot_variable"):
            return None
        try:
            return optimizer.get_slot(variable, name)
        except (AttributeError, KeyError):
            return None

    def objects(self) -> Iterator[tuple[str, Any]]:
        """Yield every object once, with its shortest path from the root."""
        names: dict[int, str] = {id(self.root): ""}
        found = [self.root]
        for trackable in found:  # grows meanwhile
            children = dict(self.children(trackable))
            if trackable is self.root:
                children.update(self.attached)
            for local, child in children.items():
                if id(child) not in names:
                    path = trackable_utils.escape_local_name(local)
                    prefix = names[id(trackable)]
                    names[id(child)] = f"{prefix}/{path}" if prefix else path
                    found.append(child)
        for trackable in found:
            yield names[id(trackable)], trackable
        yield from self._slots(found, names)

    def _slots(self, found: list[Any], names: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
        for optimizer in found:
            if not hasattr(type(optimizer), "get_slot_names"):
                continue
            for slot in optimizer.get_slot_names():
                for variable in found:
                    kept = self.slot(optimizer, variable, slot)
                    if kept is not None:
                        path = names[id(variable)], names[id(optimizer)], slot
                        yield trackable_utils.slot_variable_key(*path), kept
