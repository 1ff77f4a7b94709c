"""What a Keras model's config may name while ``safe_mode`` is on.

A config is data from outside that decides which Python objects are made. Everything it
names is looked at here, before the first object is made; Keras' own checks still run
after. The rules answer the security record of model loading: CVE-2024-3660 (lambdas),
CVE-2025-1550 and CVE-2025-8747 (any function as a layer), CVE-2025-9906 (a config that
switches safe mode off), CVE-2025-12058 (vocabularies that are paths), CVE-2026-1462 (TFSMLayer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from asyncload.errors import Corrupt, FormatError, Unsafe

from ._turn import with_rests

__all__ = ["check_config", "names_in"]

# Parts of Keras whose names are data of a model: layers, losses, and so on. What else Keras
# exports (files, downloads, its own settings) no model has reason to call.
_MODEL_PARTS = frozenset(
    {
        "activations",
        "constraints",
        "dtype_policies",
        "initializers",
        "layers",
        "losses",
        "metrics",
        "models",
        "ops",
        "optimizers",
        "quantizers",
        "random",
        "regularizers",
        "trainers",
    }
)
_MODEL_PACKAGES = frozenset({"keras_hub", "keras_cv", "keras_nlp"})
_LITERALS = frozenset(
    {
        "__keras_tensor__",
        "__tensor__",
        "__numpy__",
        "__bytes__",
        "__ellipsis__",
        "__slice__",
        "__typespec__",
    }
)
_RUNS_CODE = {
    "__lambda__": "a pickled Python lambda",
    "TorchModuleWrapper": "a pickled PyTorch module",
    "TFSMLayer": "a SavedModel, which is a program",
}
_LOOKUPS = frozenset(
    {"StringLookup", "IntegerLookup", "TextVectorization", "IndexLookup", "HashedCrossing"}
)
# What the legacy JSON decoder makes by itself, of types that TensorFlow has registered.
_DECODED = ("TypeSpec", "CompositeTensor")
_NESTING_LIMIT = 200  # levels; Keras recurses through a config, and Python stops at 1,000 frames
_TRUST = "If you trust where the file comes from, pass safe_mode=False."


def check_config(
    config: Any,
    is_registered: Callable[[str], bool],
    *,
    uri: str,
    is_part: Callable[[str], bool] | None = None,
) -> None:
    """Raise if a config names anything but parts of Keras and registered objects.

    Args:
        config: the parsed ``config.json``, or legacy config.
        is_registered: whether a name stands for an object of the caller's own
            (``custom_objects``, or registered with Keras).
        uri: for messages.
        is_part: for a legacy config, which names classes without their modules: whether a name is
            that of a class of Keras of which models are made.

    Raises:
        Unsafe: it names something that could run code or reach files.
        FormatError: it names classes that nobody registered; names all of them.
        Corrupt: it is nested deeper than any model.
    """
    unknown: dict[str, None] = {}
    for node in with_rests(_objects(config, uri, () if is_part is None else _DECODED)):
        problem = _judge(node, is_registered, is_part)
        if problem is None:
            continue
        if not problem:
            unknown[_title(node)] = None
            continue
        raise Unsafe(f"the model's config contains {problem}. {_TRUST}", uri=uri)
    if unknown:
        names = ", ".join(unknown)
        first = next(iter(unknown)).rpartition(".")[2]
        raise FormatError(
            f"the model uses classes or functions that are not part of Keras: {names}. Pass them "
            f"as custom_objects={{{first!r}: {first.rpartition('>')[2]}}}, or register them with "
            "keras.saving.register_keras_serializable before the load.",
            uri=uri,
        )


def names_in(config: Any, *, uri: str) -> Iterator[str]:
    """Yield every name in a config that could stand for an object of the caller's own.

    Raises:
        Corrupt: it is nested deeper than any model.
    """
    for node in with_rests(_objects(config, uri, ())):
        yield from _possible_names(node)


def _objects(config: Any, uri: str, without_config: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """Yield every dict that stands for an object, outermost first.

    Args:
        config: where to look.
        uri: for messages.
        without_config: classes whose objects are told by their names alone.
    """
    stack = [(config, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > _NESTING_LIMIT:
            raise Corrupt(f"its config is nested deeper than {_NESTING_LIMIT} levels", uri=uri)
        if isinstance(node, dict):
            if "class_name" in node and ("config" in node or node["class_name"] in without_config):
                yield node
            inner: Iterable[Any] = node.values()
        else:
            inner = node if isinstance(node, list) else ()
        stack.extend((each, depth + 1) for each in inner if isinstance(each, (dict, list)))


def _judge(
    node: Mapping[str, Any],
    is_registered: Callable[[str], bool],
    is_part: Callable[[str], bool] | None,
) -> str | None:
    """Return ``None`` if the object may be made, ``""`` if nobody knows it, else what is wrong."""
    name, inner = node["class_name"], node.get("config")
    if not isinstance(name, str):
        return f"a class name that is no text ({name!r})"
    if "config" not in node:
        return f"{name}, which a model has no reason to hold"
    if name in _RUNS_CODE:
        return f"{name}: {_RUNS_CODE[name]}"
    if name in _LITERALS:
        return None
    if name == "Lambda" and _holds_code(inner):
        return "a Lambda layer with Python code of its own"
    if name in _LOOKUPS and isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
        return f"a {name} whose vocabulary is a path to read ({inner['vocabulary']!r})"
    if _is_callers_own(node, is_registered):
        return None
    if is_part is not None:
        return _judge_legacy(node, is_part)
    return _judge_module(node)


def _holds_code(inner: Any) -> bool:
    if not isinstance(inner, dict):
        return True
    function = inner.get("function")
    return isinstance(function, (list, str)) or inner.get("function_type") == "lambda"


def _is_callers_own(node: Mapping[str, Any], is_registered: Callable[[str], bool]) -> bool:
    return any(is_registered(name) for name in _possible_names(node))


def _possible_names(node: Mapping[str, Any]) -> Iterator[str]:
    own = node["config"] if node["class_name"] == "function" else node["class_name"]
    return (name for name in (node.get("registered_name"), own) if isinstance(name, str))


def _judge_module(node: Mapping[str, Any]) -> str | None:
    module = node.get("module")
    if module is None:
        return ""
    if not isinstance(module, str):
        return f"a module name that is no text ({module!r})"
    package, *parts = module.split(".")
    if parts[:1] == ["src"]:
        parts = parts[1:]
    if package in _MODEL_PACKAGES:
        return None
    if package == "keras":
        allowed = not parts or parts[0] in _MODEL_PARTS
        return None if allowed else f"{_title(node)}, which is no part of a model"
    if module == "builtins" and node["class_name"] == "function":
        return None
    return ""


def _judge_legacy(node: Mapping[str, Any], is_part: Callable[[str], bool]) -> str | None:
    # Where Keras 3 wrote a module, it reads it too; where it does not, the name alone decides, and
    # would reach functions and modules as well as classes.
    if node.get("module") is not None:
        verdict = _judge_module(node)
        if verdict is not None or node["class_name"] == "function":
            return verdict
    return None if is_part(node["class_name"]) else ""


def _title(node: Mapping[str, Any]) -> str:
    name = node["config"] if node["class_name"] == "function" else node["class_name"]
    own = node.get("registered_name") or name
    module = node.get("module")
    return f"{module}.{name}" if module not in (None, "builtins") else str(own)
