"""What a file decides of a Keras model, and how the values of another file take its place."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.random.seed_generator import make_default_seed
from keras.src.trainers.trainer import Trainer
from tensorflow.python.ops import gen_resource_variable_ops
from tensorflow.python.trackable.resource import CapturableResource

from asyncload.materialize._turn import in_slices, with_rests

from ._assign import assign_value, read_value
from ._variables import Array, as_tensor

__all__ = ["KerasState", "detach_derived", "drop", "exchange", "settings"]

# What is compared by value, or kept, besides the variables: it is small or the model is not reused.
_LIMIT = 16 << 20  # bytes
_STATEFUL = (tf.Variable, tf.Module, tf.random.Generator, CapturableResource)

Origins = Sequence[tuple[Any, Array]]


def settings() -> tuple[Any, ...]:
    """Return what else decides how a config is built: Keras' own settings."""
    config = keras.config
    return (
        config.floatx(),
        config.epsilon(),
        config.image_data_format(),
        keras.dtype_policies.serialize(config.dtype_policy()),
    )


def drop(holders: Iterable[tuple[Any, int, Any]]) -> None:
    """Take their values from variables, whose handles stay.

    What reads one afterwards fails: it has an empty tensor, of a rank that no operation takes for
    it (a variable that has no value at all cannot be had of one that had).

    Args:
        holders: handle, rank and dtype of each.
    """
    empty: dict[tuple[int, Any], Any] = {}
    for handle, rank, dtype in in_slices(holders):
        value = empty.get((rank, dtype))
        if value is None:
            value = empty[rank, dtype] = tf.zeros((0,) * (rank + 1), dtype)
        _assign(handle, value)


def exchange(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Give variables new values, all of them or none.

    Args:
        pairs: handle of a variable, and tensor of its dtype, which fits it.
    """
    before = []
    try:
        for handle, value in in_slices(pairs):
            before.append((handle, gen_resource_variable_ops.read_variable_op(handle, value.dtype)))
            _assign(handle, value)
    except BaseException:
        for handle, value in reversed(before):
            _assign(handle, value)
        raise


def _assign(handle: Any, value: Any) -> None:
    gen_resource_variable_ops.assign_variable_op(handle, value)


def detach_derived(model: Any) -> None:
    """Have what layers compute of their variables share no memory with the file's arrays.

    Such a tensor would keep the memory of the whole model for as long as the layer, or a function
    that was traced with it, lives.
    """
    for layer in with_rests(model._flatten_layers()):
        finalize: Any = getattr(type(layer), "finalize_state", None)
        if finalize is None or not finalize.__module__.startswith("keras."):
            continue
        variables = [v for v in _own_variables(layer) if v._value is not None]
        for variable in variables:
            assign_value(variable._value, tf.constant(variable.numpy(), variable.dtype))
        if variables:
            layer.finalize_state()


class KerasState:
    """The state of a model that was just loaded, and where each of its values came from.

    It refers to the model and its layers weakly.

    Args:
        model: that was loaded.
        origins: the arrays that its variables were assigned; see `Skeleton`.
        arrays: of the file: name -> array.
        taken: ids of those that the model asked for.

    Attributes:
        problem: why this model cannot take the values of another file, if it cannot.
        has_rate: whether the learning rate of its optimizer is one of the file's values.
    """

    def __init__(
        self, model: Any, origins: Origins, arrays: Mapping[str, Array], taken: set[int]
    ) -> None:
        layers = list(with_rests(model._flatten_layers()))
        names = {id(array): name for name, array in arrays.items()}
        # A variable that two layers save is assigned twice; the last time counts.
        last = {id(v): (v, names.get(id(array))) for v, array in with_rests(origins)}
        self._places = [(v, name) for v, name in last.values() if name is not None]
        placed = {id(variable) for variable, _ in self._places}
        every = {id(v): v for v in with_rests(_variables(layers))}
        self._model = weakref.ref(model)
        self._specs = _specs(arrays)
        self._seeds = [s.state for s in _seed_generators(layers) if s._initial_seed is None]
        elsewhere = placed | {id(seed) for seed in self._seeds}
        kept = (v for key, v in every.items() if key not in elsewhere)
        self._kept = [(v, read_value(v._value)) for v in with_rests(kept)]
        self._form = [_Form(layer) for layer in with_rests(layers)]
        optimizer = getattr(model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self.has_rate = id(getattr(optimizer, "_learning_rate", None)) in placed
        derived = {id(v) for layer in _deriving(layers) for v in _own_variables(layer)}
        by_value = {names[key] for key in taken.difference(id(array) for _, array in origins)}
        by_value |= {name for v, name in self._places if id(v) in derived}
        self.problem = _problem(layers) or self._unfit(arrays, by_value)
        self._fixed = {} if self.problem else _digests(arrays, by_value)

    def _unfit(self, arrays: Mapping[str, Array], by_value: Iterable[str]) -> str | None:
        nbytes = sum(
            tensor.dtype.size * int(tensor.shape.num_elements()) for _, tensor in self._kept
        )
        nbytes += sum(arrays[name].nbytes for name in by_value)
        if nbytes > _LIMIT:
            return f"{nbytes:,} bytes of its state are not simply the values of its variables"
        if any(arrays[name].dtype.hasobject for name in by_value):
            return "its layers keep texts of its file"
        return None

    def changed(self) -> str | None:
        """Say how the model is no longer what was loaded, its values aside."""
        model = self._model()
        if model is None:
            return "it is gone"
        layers = list(with_rests(model._flatten_layers()))
        if len(layers) != len(self._form):
            return "layers were added to it, or removed"
        for layer, form in with_rests(zip(layers, self._form, strict=True)):
            if (difference := form.differs(layer)) is not None:
                return f"{difference} of {layer.name!r} changed since it was loaded"
        return None

    def misfit(self, arrays: Mapping[str, Array]) -> str | None:
        """Say how another file's arrays do not fit the model as its own did."""
        specs = _specs(arrays)
        if specs != self._specs:
            names = sorted({name for name, _ in specs.items() ^ self._specs.items()})
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"the files have other tensors: {names[0]}{more}"
        for name, digest in _digests(arrays, self._fixed).items():
            if digest != self._fixed[name]:
                return f"what was traced may hold the value of {name}, which differs"
        return None

    def rebind(self, arrays: Mapping[str, Array]) -> None:
        """Give the model the values of a file that fits, as if it had just been loaded from it.

        All values are exchanged, or none; metrics are reset before.
        """
        pairs = [(v, _value(v, arrays[name])) for v, name in in_slices(self._places)]
        pairs += self._kept
        pairs += [(v, tf.constant([make_default_seed(), 0], v.dtype)) for v in self._seeds]
        for form in with_rests(self._form):
            if isinstance(layer := form.layer(), Trainer):
                layer.reset_metrics()
        exchange((variable._value.handle, value) for variable, value in pairs)

    def empty(self) -> None:
        """Take their values from the model's variables; see `drop`."""
        drop((v._value.handle, len(v.shape), v._value.dtype) for v, _ in self._places)


def _value(variable: Any, array: Array) -> Any:
    if array.dtype.name == variable._dtype:
        return as_tensor(array)
    return variable._convert_to_tensor(array, dtype=variable._dtype)


def _specs(arrays: Mapping[str, Array]) -> dict[str, tuple[Any, ...]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _digests(arrays: Mapping[str, Array], names: Iterable[str]) -> dict[str, bytes]:
    return {name: hashlib.sha256(arrays[name].tobytes()).digest() for name in names}


def _own_variables(layer: Any) -> list[Any]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _seed_generators(layers: Iterable[Any]) -> Iterator[Any]:
    for layer in layers:
        yield from layer._seed_generators


def _variables(layers: Sequence[Any]) -> Iterator[Any]:
    for layer in layers:
        yield from _own_variables(layer)
        if (optimizer := getattr(layer, "optimizer", None)) is not None:
            yield from optimizer.variables
    yield from (generator.state for generator in _seed_generators(layers))


def _deriving(layers: Iterable[Any]) -> Iterator[Any]:
    """Yield the layers that compute something of their variables when they are loaded."""
    return (layer for layer in layers if hasattr(layer, "finalize_state"))


def _is_of_keras(function: Any) -> bool:
    return function is None or function.__module__.startswith("keras.")


def _problem(layers: Iterable[Any]) -> str | None:
    """Say what a layer does that is not known here."""
    kinds: set[Any] = set()
    for layer in layers:
        kinds.add(type(layer))
        if (optimizer := getattr(layer, "optimizer", None)) is not None:
            kinds.add(type(optimizer))
        if not _is_of_keras(type(layer)):
            for name, value in vars(layer).items():
                if isinstance(value, _STATEFUL):
                    return f"{layer.name!r} has state that is not Keras' own ({name})"
    for kind in kinds:
        for name in ("load_own_variables", "load_assets", "finalize_state"):
            if not _is_of_keras(getattr(kind, name, None)):
                return f"{kind.__name__} loads its state in its own way ({name})"
    return None


class _Form:
    """What of a layer, its values aside, has to stay as it was loaded."""

    def __init__(self, layer: Any) -> None:
        self.layer = weakref.ref(layer)
        self._parts = _parts(layer)
        self._derived = _derived(layer) if hasattr(layer, "finalize_state") else {}

    def differs(self, layer: Any) -> str | None:
        """Say what is not as it was, if anything."""
        if self.layer() is not layer:
            return "the place"
        for name, part in _parts(layer).items():
            if part != self._parts[name]:
                return name
        now = vars(layer)
        for name, value in self._derived.items():
            if now.get(name) is not value:
                return name
        return None


def _parts(layer: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "trainable": layer._trainable,
        "the dtype policy": layer._dtype_policy,
        "the variables": [(id(v), v.trainable) for v in _own_variables(layer)],
    }
    if isinstance(layer, Trainer):
        optimizer = getattr(layer, "optimizer", None)
        variables = [] if optimizer is None else [id(v) for v in optimizer.variables]
        parts["the compilation"] = _weak(getattr(layer, "_compile_config", None))
        parts["the optimizer"] = (_weak(optimizer), variables)
    return parts


def _weak(value: Any) -> Any:
    return None if value is None else _Same(value)


class _Same:
    """Whether something is the same object as before, which it does not keep alive."""

    def __init__(self, value: Any) -> None:
        self._reference = weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        mine = self._reference()
        return mine is not None and isinstance(other, _Same) and other._reference() is mine

    __hash__ = None  # type: ignore[assignment]


def _derived(layer: Any) -> dict[str, Any]:
    plain = (bool, int, float, str, bytes, tuple, type(None))
    return {name: value for name, value in vars(layer).items() if not isinstance(value, plain)}
