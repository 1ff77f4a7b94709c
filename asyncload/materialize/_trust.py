"""What a Keras model's config may name while ``safe_mode`` is on.

A config is data from outside that decides which Python objects are made, and on what they are
called. Everything it names is looked up here as Keras would look it up, and judged by what is
found, before the first object is made; Keras' own checks still run after. The rules answer the
security record of model loading: CVE-2024-3660 (lambdas), CVE-2025-1550 and CVE-2025-8747 (any
function as a layer), CVE-2025-9906 (a config that switches safe mode off), CVE-2025-12058
(vocabularies that are paths), CVE-2026-1462 (TFSMLayer).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncload.errors import Corrupt, FormatError, Unsafe

from . import _private
from ._turn import with_rests

__all__ = ["Examination", "names_in"]

_LITERALS = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)
_RUNS_CODE = {
    "__lambda__": "the code of a Python lambda",
    "TorchModuleWrapper": "a pickled PyTorch module",
    "TFSMLayer": "a SavedModel, which is a program",
}
# What the legacy JSON decoder makes by itself, of types that TensorFlow has registered.
_DECODED = ("TypeSpec", "CompositeTensor")
# What NumPy makes an element of at most 16 bytes of, whatever the text says besides.
_PLAIN_DTYPE = re.compile(r"(bool|object|string|str|u?int\d{1,2}|b?float\d{1,3}\w{0,8}|complex\d+)")
_METRICS = ("metrics", "weighted_metrics")  # of a legacy model's training
_NESTING_LIMIT = 200  # levels; Keras recurses through a config, and Python stops at 1,000 frames
_TRUST = "If you trust where the file comes from, pass safe_mode=False."

_Node = Mapping[str, Any]


@dataclass(slots=True)
class Examination:
    """Looks at all configs of a model, then says what is wrong with them.

    Args:
        own: name -> the program's object that is registered with Keras or passed as a custom
            object, or ``None``. A name that begins with ``>`` asks for one in any package.
        uri: for messages.
        legacy: whether the configs may name classes without their modules.
    """

    own: Callable[[str], Any]
    uri: str
    legacy: bool = False
    _missing: dict[str, str] = field(default_factory=dict)
    _missing_in_training: dict[str, str] = field(default_factory=dict)

    def look_at(self, config: Any) -> None:
        """Look at the config of a model.

        Raises:
            Unsafe: it names something that could run code or reach files.
            Corrupt: it is nested deeper than any model.
        """
        self._look(config, self._missing)

    def look_at_training(self, config: Any) -> None:
        """Look at what a model is compiled with; raises as `look_at` does."""
        missing = self._missing_in_training
        try:
            self._look(config, missing)
        except FormatError as error:
            error.message += " Or pass compile=False: this is about the model's training."
            raise
        if self.legacy and isinstance(config, dict):
            self._forgive(config.get("optimizer_config"))
            loss = config.get("loss")
            self._forgive(loss)
            for each in _METRICS:  # Keras keeps their names as text, and looks for them in fit
                self._forgive_all(config.get(each))
            if isinstance(loss, str) and not _private.is_stored_by_name(loss):
                self._note_function(loss, missing)

    def conclude(self) -> None:
        """Raise `FormatError` if classes or functions are missing; it names all of them."""
        missing = {**self._missing, **self._missing_in_training}
        if not missing:
            return
        first = next(iter(missing))
        remedy = (
            f"Pass them as custom_objects={{{first!r}: {first.rpartition('>')[2]}}}, or register "
            "them with keras.saving.register_keras_serializable before the load."
        )
        if self._missing_in_training:
            only = "" if self._missing else " only"
            training = ", ".join(self._missing_in_training.values())
            remedy += f" Or pass compile=False:{only} the model's training uses {training}."
        raise FormatError(
            "the model uses classes or functions that are not part of Keras: "
            f"{', '.join(missing.values())}. {remedy}",
            uri=self.uri,
        )

    def _look(self, config: Any, missing: dict[str, str]) -> None:
        for node in with_rests(_objects(config, self.uri, _DECODED if self.legacy else ())):
            problem = _problem_of_form(node) or self._problem_of_name(node, missing)
            problem = problem or _problem_of_calls(node)
            if problem:
                raise Unsafe(f"the model's config contains {problem}. {_TRUST}", uri=self.uri)

    def _problem_of_name(self, node: _Node, missing: dict[str, str]) -> str | None:
        name, inner = node["class_name"], node["config"]
        if name in _LITERALS:
            return None
        if name == "Lambda" and isinstance(inner, dict) and isinstance(inner["function"], str):
            self._note_function(inner["function"], missing)
        found = _private.named(node, self.own, legacy=self.legacy)
        if not found:
            missing.setdefault(_registered_name(node), _title(node))
        for each in found:
            problem = _problem_of_object(node, each)
            if problem is not None:
                return problem
        return None

    def _note_function(self, name: str, missing: dict[str, str]) -> None:
        if self.own(name) is None:
            missing.setdefault(name, name)

    def _forgive_all(self, config: Any) -> None:
        for node in _objects(config, self.uri, ()):
            self._missing_in_training.pop(_registered_name(node), None)

    def _forgive(self, node: Any) -> None:
        # Keras 2 wrote "Custom>Adam" for its own Adam. Keras 3 then goes by the object's name.
        match node:
            case {"class_name": str(), "config": {"name": str(name)}}:
                if _private.is_stored_by_name(name):
                    self._missing_in_training.pop(_registered_name(node), None)


def names_in(config: Any, *, uri: str) -> Iterator[str]:
    """Yield every name in a config that could stand for an object of the caller's own.

    Raises:
        Corrupt: it is nested deeper than any model.
    """
    for node in with_rests(_objects(config, uri, ())):
        own = node["config"] if node["class_name"] == "function" else node["class_name"]
        yield from (name for name in (node.get("registered_name"), own) if isinstance(name, str))


def _objects(config: Any, uri: str, without_config: tuple[str, ...]) -> Iterator[_Node]:
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
            if _is_object(node) or node.get("class_name") in without_config:
                yield node
            inner: Iterable[Any] = node.values()
        else:
            inner = node if isinstance(node, list) else ()
        stack.extend((each, depth + 1) for each in inner if isinstance(each, (dict, list)))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value and "config" in value


def _problem_of_form(node: _Node) -> str | None:
    """Say what is wrong with a node before anything is looked up, if anything is."""
    name, inner = node["class_name"], node.get("config")
    if not isinstance(name, str):
        return f"a class name that is no text ({name!r})"
    if "config" not in node:
        return f"{name}, which a model has no reason to hold"
    for key in ("module", "registered_name"):
        if not isinstance(node.get(key), (str, type(None))):
            return f"a {key} that is no text ({node[key]!r})"
    if name in _RUNS_CODE:
        return f"{name}: {_RUNS_CODE[name]}"
    if name == "function" and not isinstance(inner, str):
        return f"a name of a function that is no text ({inner!r})"
    if name == "Lambda" and _holds_code(inner):
        return "a Lambda layer with Python code of its own"
    if name == "__numpy__" and not _is_plain_array(inner):
        return "an array whose dtype is not that of numbers or text"
    return None


def _holds_code(inner: Any) -> bool:
    if not isinstance(inner, dict) or isinstance(inner.get("function"), list):
        return True
    return "function" not in inner or inner.get("function_type") == "lambda"


def _is_plain_array(inner: Any) -> bool:
    # NumPy reads "(1000,1000,1000)f8" and "S999999999" as dtypes, too.
    dtype = inner.get("dtype") if isinstance(inner, dict) else None
    return isinstance(dtype, str) and _PLAIN_DTYPE.fullmatch(dtype) is not None


def _problem_of_object(node: _Node, found: _private.Named) -> str | None:
    """Say why a node must not become what was found for its name, if it must not."""
    function = node["class_name"] == "function"
    if not found.own and not _private.is_part_of_a_model(found.value, function=function):
        return f"{_title(node)}, which is no part of a model"
    kind = getattr(found.value, "__name__", None)
    if kind in _RUNS_CODE:
        return f"{kind}: {_RUNS_CODE[kind]}"
    inner = node["config"]
    vocabulary = inner.get("vocabulary") if isinstance(inner, dict) else None
    if isinstance(vocabulary, str) and _private.reads_vocabularies(found.value):
        return f"a {kind} whose vocabulary is a path to read ({vocabulary!r})"
    return None


def _problem_of_calls(node: _Node) -> str | None:
    """Say why a layer of a graph must not be called as it says: a call on no tensor runs now."""
    calls = node.get("inbound_nodes")
    for call in calls if isinstance(calls, list) else ():
        if not _is_on_tensors(call, first=node["class_name"] == "Lambda"):
            return f"a call of {_title(node)} on no tensor, which would run while it loads"
    return None


def _is_on_tensors(call: Any, *, first: bool) -> bool:
    if isinstance(call, list):  # legacy: [name, node, tensor] of each tensor
        return bool(call)
    if not isinstance(call, dict):
        return False
    args, kwargs = call.get("args"), call.get("kwargs")
    if not isinstance(args, list) or not isinstance(kwargs, dict) or _is_object(kwargs):
        return False
    if first:
        return _holds_tensor(args[:1] or [kwargs.get("inputs")])
    return _holds_tensor(args) or _holds_tensor(kwargs)


def _holds_tensor(value: Any) -> bool:
    """Whether a tensor is where Keras looks for one: in lists and dicts, not within objects."""
    stack = [value]
    while stack:
        each = stack.pop()
        if _is_object(each):
            if each["class_name"] == "__keras_tensor__":
                return True
        elif isinstance(each, (list, dict)):
            stack.extend(each if isinstance(each, list) else each.values())
    return False


def _registered_name(node: _Node) -> str:
    """Return the name by which the program would register what a node stands for."""
    name = node["config"] if node["class_name"] == "function" else node["class_name"]
    registered = node.get("registered_name")
    return str(name if registered in (None, "", "function") else registered)


def _title(node: _Node) -> str:
    name = node["config"] if node["class_name"] == "function" else node["class_name"]
    module = node.get("module")
    return f"{module}.{name}" if module not in (None, "builtins") else _registered_name(node)
