"""The state of a file put into a model: Keras' own ``_load_state``, with a quicker walk."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras.src.backend.common import global_state
from keras.src.layers.layer import Layer
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable

from ._caller import in_pristine_thread
from ._variables import Array, in_load, rest_in_skeleton

__all__ = [
    "StateLoader",
    "StateStore",
    "copying_for_own_ways",
    "loads_its_own_way",
    "quick_walk",
]

_NAMES = "object_name_uids"


@functools.cache
def _skipset(kind: str) -> tuple[frozenset[str], Mapping[str, int]]:
    """Return what Keras skips in objects of a kind, and the automatic names that asking uses up."""

    def ask() -> tuple[frozenset[str], Mapping[str, int]]:
        skipset = frozenset(saving_lib.get_attr_skipset(kind))
        return skipset, dict(global_state.get_global_attribute(_NAMES, {}))

    # Keras makes an object of the kind to see what it has.
    return in_pristine_thread(ask)


def _use_names(kind: str, times: int = 1) -> None:
    """Count as Keras does, which asks anew for each object, and makes one each time."""
    _, used = _skipset(kind)
    names = global_state.get_global_attribute(
        _NAMES, collections.defaultdict(int), set_to_default=True
    )
    for name, number in used.items():
        names[name] += number * times


@functools.cache  # for one load: a program may add attributes to its classes between two
def _class_attributes(cls: type, kind: str) -> tuple[str, ...]:
    skipset, _ = _skipset(kind)
    # `Trainer.compiled_metrics` would make a class that refers to the model, in a circle.
    skipset = skipset | {"compiled_metrics"}
    return tuple(a for a in dir(cls) if not a.startswith("__") and a not in skipset)


def _walk(saveable: Any) -> Iterator[tuple[str, Any]]:
    """Yield the children that ``saving_lib._walk_saveable`` yields and its callers look at."""
    rest_in_skeleton()
    kind = saveable._obj_type()
    skipset, _ = _skipset(kind)
    _use_names(kind)
    if kind in ("Sequential", "Functional"):
        yield "layers", saveable.layers
    own = [a for a in vars(saveable) if not a.startswith("__") and a not in skipset]
    cls: Any = type(saveable)
    names = {*own, *_class_attributes(cls, kind)}
    for name in sorted(names, key=saving_lib._name_key):
        try:
            child = getattr(saveable, name)
        except Exception:  # noqa: BLE001, S112 - as stock: what fails is no child
            continue
        if isinstance(child, (KerasSaveable, list, dict, tuple)):
            yield name, child


def quick_walk(stock: Callable[[Any], Iterator[tuple[str, Any]]]) -> Callable[..., Any]:
    """Override ``saving_lib._walk_saveable``: the same children, in the same order."""

    @functools.wraps(stock)
    def _walk_saveable(saveable: Any) -> Iterator[tuple[str, Any]]:
        listing: Any = type(saveable).__dir__
        usual = listing is object.__dir__
        return _walk(saveable) if in_load() and usual else stock(saveable)

    return _walk_saveable


class StateStore(saving_lib.H5IOStore):  # type: ignore[misc]
    """The weights of a file, in memory, as Keras' ``_load_state`` asks for them.

    Args:
        arrays: dataset path (``"layers/dense/vars/0"``) -> array; the arrays stay the caller's.

    Attributes:
        taken: ids of the arrays that were asked for.
        copies: whether whoever asks gets copies, which can be written to, as from a file.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        # The base class would open a file; it is a base only because Keras tests for it.
        self.groups: dict[str, dict[str, Array]] = {}
        self._entry: Mapping[str, Array] = {}
        self.path = ""
        self.copies = False
        self.taken: set[int] = set()
        for path, array in arrays.items():
            group, _, name = f"/{path}".rpartition("/vars/")
            self.groups.setdefault(group.lstrip("/"), {})[name] = array
        self._parents = {
            path[:end] for path in self.groups for end, c in enumerate(path + "/") if c == "/"
        }

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._entry)

    def __contains__(self, key: object) -> bool:
        return key in self._entry

    def __getitem__(self, key: str) -> Any:
        array = self._entry[key]
        self.taken.add(id(array))
        return array.copy() if self.copies else array

    def keys(self) -> Any:
        """Return the names of the variables of the object asked for last."""
        return self._entry.keys()

    def get(self, path: str) -> StateStore:
        """Turn to the object at ``path``; one that the file does not have has no variables."""
        self.path = path
        entry = self.groups.get(path)
        if entry is None and "_layer_checkpoint_dependencies" in self._parents:
            # As Keras reads files of its version 2.13.
            entry = self.groups.get(path.replace("layers", "_layer_checkpoint_dependencies"))
        self._entry = entry or {}
        return self

    def has_path(self, path: str) -> bool:
        """Whether the file has anything at or below ``path``."""
        rest_in_skeleton()  # a model's nodes are asked for one by one
        return path in self._parents

    def close(self) -> None:
        """Let go of the arrays."""
        self.groups, self._entry = {}, {}


def copying_for_own_ways(stock: Callable[..., None]) -> Callable[..., None]:
    """Override ``saving_lib._load_state``: a class that is not Keras' may write to its arrays."""

    @functools.wraps(stock)
    def _load_state(saveable: Any, weights_store: Any, *args: Any, **options: Any) -> None:
        if isinstance(weights_store, StateStore):
            weights_store.copies = hasattr(saveable, "load_own_variables") and loads_its_own_way(
                saveable
            )
        stock(saveable, weights_store, *args, **options)

    return _load_state


class _Errors(dict[int, tuple[Any, Exception]]):
    """Keras' ``error_msgs``, which also notes where in the file each object was looked for."""

    def __init__(self, store: StateStore) -> None:
        super().__init__()
        self._store = store
        self.paths: dict[int, str] = {}

    def __setitem__(self, key: int, value: tuple[Any, Exception]) -> None:
        self.paths[key] = self._store.path
        super().__setitem__(key, value)


class StateLoader:
    """Puts the state of a file into a model, as Keras' ``_load_state`` does.

    Args:
        store: the file's weights.
        assets: the folder that holds the file's assets; ``None`` if it has none.
        skip_mismatch: as Keras' ``load_weights`` takes it.

    Attributes:
        errors: what failed, as Keras collects it: id -> (object, error).
    """

    def __init__(
        self, store: StateStore, assets: str | None, *, skip_mismatch: bool = False
    ) -> None:
        self._store = store
        self._skip_mismatch = skip_mismatch
        self._assets = saving_lib.DiskIOStore(assets, mode="r") if assets is not None else None
        self._visited: set[int] = set()
        _class_attributes.cache_clear()
        self._failed: set[int] = set()
        self.errors = _Errors(store)

    def load(self, model: Any) -> None:
        """Load what `model` owns and has not been loaded yet; a second call finds what is new."""
        if id(model) in self._visited:  # which stock visits once
            self._visited.remove(id(model))
            _use_names(model._obj_type(), -1)
        saving_lib._load_state(
            model,
            weights_store=self._store,
            assets_store=self._assets,
            inner_path="",
            skip_mismatch=self._skip_mismatch,
            visited_saveables=self._visited,
            failed_saveables=self._failed,
            error_msgs=self.errors,
        )

    def misfits(self) -> list[str] | None:
        """Say of every variable that failed what the model has and what the file has.

        Returns:
            A line for each; ``None`` if some failure has another reason than a variable's shape
            or its absence.
        """
        lines: list[str] = []
        for key, (owner, _) in self.errors.items():
            if loads_its_own_way(owner):
                return None
            found = _misfits(owner, self._store.groups, self.errors.paths[key])
            if not found:
                return None
            lines.extend(found)
        return lines


def loads_its_own_way(owner: Any) -> bool:
    """Whether a class that is not Keras' loads the state of this object."""
    return not type(owner).load_own_variables.__module__.startswith("keras.")


def _misfits(owner: Any, groups: Mapping[str, Mapping[str, Array]], path: str) -> list[str]:
    if isinstance(owner, Layer):
        variables = owner._trainable_variables + owner._non_trainable_variables
    else:
        variables = owner.variables
    expected = {str(number): variable for number, variable in enumerate(variables)}
    entry = groups.get(path, {})
    lines = []
    for name in sorted({*expected, *entry}, key=lambda text: (len(text), text)):
        variable, array = expected.get(name), entry.get(name)
        wanted = "" if variable is None else _describe(variable.path, variable)
        got = "" if array is None else _describe("the file", array)
        if variable is None:
            lines.append(f"{path}/vars/{name}: {got}, the model has no such variable")
        elif array is None:
            lines.append(f"{path}/vars/{name}: {wanted}, the file has no such tensor")
        elif tuple(variable.shape) != array.shape:
            lines.append(f"{path}/vars/{name}: {wanted}, {got}")
    return lines


def _describe(name: str, holder: Any) -> str:
    return f"{name} has {tuple(holder.shape)} {holder.dtype}"
