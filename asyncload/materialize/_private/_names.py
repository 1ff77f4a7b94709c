"""What Keras takes for a name in a config: found the way it does, with nothing imported or made.

The rules are those of ``serialization_lib._retrieve_class_or_fn`` and of the legacy loader
(Keras 3.15). Where a name can stand for several things, all of them are found: which one Keras
takes may depend on the place in the config.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras.src import (
    activations,
    api_export,
    constraints,
    dtype_policies,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    quantizers,
    regularizers,
)
from keras.src.layers.preprocessing.index_lookup import IndexLookup
from keras.src.saving import serialization_lib
from keras.src.saving.keras_saveable import KerasSaveable

__all__ = ["Named", "is_part_of_a_model", "is_stored_by_name", "named", "reads_vocabularies"]

_FAMILIES = (
    activations,
    constraints,
    dtype_policies,
    initializers,
    losses,
    metrics,
    optimizers,
    quantizers,
    regularizers,
)
# Public classes from which all are derived that Keras makes of configs, by their names in `keras`:
# some are newer than the oldest Keras that serves.
_BASES = (
    "Initializer",
    "Quantizer",
    "Regularizer",
    "constraints.Constraint",
    "distillation.DistillationLoss",
    "dtype_policies.DTypePolicy",
    "dtype_policies.DTypePolicyMap",
    "optimizers.OptimizerMap",
    "optimizers.schedules.LearningRateSchedule",
    "quantizers.QuantizationConfig",
    "random.SeedGenerator",
)
# Functions of tensors. What else Keras exports (files, downloads, its own settings, functions that
# call others) no model has reason to refer to.
_FUNCTIONS = ("keras.activations.", "keras.losses.", "keras.metrics.")
_OF_CONFIGS = frozenset({"get", "serialize", "deserialize"})
_PACKAGES = frozenset({"keras", "keras_hub", "keras_cv", "keras_nlp"})

_MODELS = {each.__name__: each for each in (models.Functional, models.Model, models.Sequential)}

Own = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for.

    Attributes:
        value: a class, a function, or whatever else is under that name.
        own: whether it is the program's, registered or passed as a custom object.
    """

    value: Any
    own: bool = False


def named(node: Mapping[str, Any], own: Own, *, legacy: bool) -> list[Named]:
    """Return everything that Keras could take for what a node of a config names.

    Args:
        node: with a ``class_name`` that is text, and a ``config``.
        own: name -> the program's object of that name, or ``None``. A name that begins with ``>``
            asks for one in any package.
        legacy: whether the node may be read by the loader of legacy files.
    """
    if node["class_name"] == "function":
        return list(_functions(node, own))
    found = list(_classes(node, own, legacy))
    # Where Keras expects an optimizer, a loss and so on, the class alone decides.
    return found or [Named(each) for each in _in_families(node["class_name"])]


def _functions(node: Mapping[str, Any], own: Own) -> Iterator[Named]:
    for name in dict.fromkeys((node["config"], node.get("registered_name"))):
        if name in (
            None,
            "",
            "function",
        ):  # as Keras writes where it has none
            continue
        value = own(name)
        if value is not None:
            yield Named(value, own=True)
            continue
        module = node.get("module")
        yield from map(Named, _exported(module, name))
        if module == "builtins":
            of_any_package = own(f">{name}")
            if of_any_package is not None:
                yield Named(of_any_package, own=True)


def _exported(module: Any, name: str) -> Iterator[Any]:
    families = serialization_lib.BUILTIN_MODULES if module == "builtins" else ()
    for path in (module, *(f"keras.{family}" for family in families)):
        value = api_export.get_symbol_from_name(f"{path}.{name}")
        if value is not None:
            yield value


def _classes(node: Mapping[str, Any], own: Own, legacy: bool) -> Iterator[Named]:
    name, module = node["class_name"], node.get("module")
    registered = node.get("registered_name", name)
    by_name = legacy or "module" not in node
    for each in dict.fromkeys((registered, name) if by_name else (registered,)):
        value = None if each is None else own(each)
        if value is not None:
            yield Named(value, own=True)
    if by_name:
        value = vars(layers).get(name, _MODELS.get(name))
        if value is not None:
            yield Named(value)
    if isinstance(module, str):
        yield from map(Named, _in_module(module, name))


def _in_module(module: str, name: str) -> Iterator[Any]:
    value = api_export.get_symbol_from_name(f"{module}.{name}")
    if value is not None:
        yield value
    elif module.partition(".")[0] in _PACKAGES:
        # What the program has not imported, Keras would: not for a name in a file.
        value = getattr(sys.modules.get(module), name, None)
        if isinstance(value, type) and issubclass(value, KerasSaveable):
            yield value


def _in_families(name: str) -> Iterator[Any]:
    for family in _FAMILIES:
        value = family.ALL_OBJECTS_DICT.get(name)
        if value is None and family is optimizers:
            value = family.ALL_OBJECTS_DICT.get(name.lower())
        if value is not None:
            yield value
    schedule = getattr(keras.optimizers.schedules, name, None)
    if isinstance(schedule, type):
        yield schedule


def is_stored_by_name(name: str) -> bool:
    """Whether Keras finds an optimizer, a loss, a metric and so on by this name alone."""
    return any(True for _ in _in_families(name))


@functools.cache
def _model_classes() -> tuple[type, ...]:
    found = (functools.reduce(_attribute, path.split("."), keras) for path in _BASES)
    return (KerasSaveable, *(each for each in found if each is not None))


def _attribute(value: Any, name: str) -> Any:
    return getattr(value, name, None)


@functools.cache
def _model_functions() -> frozenset[Any]:
    exported = api_export.REGISTERED_NAMES_TO_OBJS.items()
    return frozenset(
        value
        for name, value in exported
        if name.startswith(_FUNCTIONS)
        and name.rpartition(".")[2] not in _OF_CONFIGS
        and inspect.isfunction(value)
    )


def is_part_of_a_model(value: Any, *, function: bool) -> bool:
    """Whether Keras, or a package of models beside it, defines this for models to be made of.

    Args:
        value: as `named` found it.
        function: whether it is referred to as a function; then no class will do.
    """
    if function:
        return inspect.isfunction(value) and value in _model_functions()
    if not (isinstance(value, type) and issubclass(value, _model_classes())):
        return False
    return value.__module__.partition(".")[0] in _PACKAGES


def reads_vocabularies(value: Any) -> bool:
    """Whether a class reads a file where its vocabulary is a path."""
    readers = (IndexLookup, keras.layers.TextVectorization)
    return isinstance(value, type) and issubclass(value, readers)
