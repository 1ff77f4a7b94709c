"""Put the tensors of a checkpoint into Python objects, as ``tf.train.Checkpoint.restore`` does.

The object graph of the checkpoint and the objects are walked side by side, by the names under
which objects hold their children; what meets belongs together. Nothing changes before all of
it was compared, and if an object then still refuses its values, all get their old ones back.

`CheckpointAssignment` is stricter than ``restore``, which keeps silent about what it did not
restore: as with ``restore(...).assert_consumed()``, every value of the target has to be in the
checkpoint and the other way round. The counter that ``tf.train.Checkpoint.save`` writes into
each file is the exception: it is restored into a `tf.train.Checkpoint` and ignored by others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from asyncload.errors import MismatchError, NotApplicable

from . import CannotBuildFast, _private
from ._object_graph import GRAPH_DOCUMENT, Node, parse_object_graph
from ._private import Restorable, TargetGraph, Wanted
from ._turn import turn
from .caller import Scopes

__all__ = [
    "CheckpointAssignment",
    "Plan",
    "describe_missing",
    "execute",
    "match_by_name",
    "match_objects",
    "misfits",
]

Array = npt.NDArray[Any]

_COUNTER = "save_counter"  # of `tf.train.Checkpoint`, below the root
_VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # what follows an object's path in a variable's key


@dataclass(slots=True)
class Plan:
    """Which value goes where.

    Attributes:
        matched: (path of the object, what it takes).
        missing: (path, object) of what has values, and is not in the checkpoint.
        unsaved: (path, object) of what has values, and is in the checkpoint without any.
        extra: keys of the checkpoint that belong to no object.
    """

    matched: list[tuple[str, Restorable]] = field(default_factory=list)
    missing: list[tuple[str, Any]] = field(default_factory=list)
    unsaved: list[tuple[str, Any]] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)


# --- deciding --------------------------------------------------------------------------


def match_objects(target: TargetGraph, nodes: Sequence[Node]) -> Plan:
    """Decide which objects the nodes of a checkpoint stand for.

    Raises:
        CannotRestore: an object reads files of its own.
    """
    bound = _bind(target, nodes)
    objects = list(target.objects())
    paths = {id(trackable): path for path, trackable in objects}
    plan = Plan()
    planned: set[int] = set()  # objects; the first node that stands for one gives its values
    counter = _counter(nodes)
    for number, node in enumerate(nodes):
        if number not in bound and number != counter:
            plan.extra.extend(key for _, key in node.attributes)
    for number, trackable in bound.items():
        node = nodes[number]
        if id(trackable) in planned:
            continue
        planned.add(id(trackable))
        path = paths.get(id(trackable), "")
        found = _private.restorables(trackable, node.attributes, node.saver)
        plan.matched.extend((path, one) for one in found)
        plan.extra.extend(_untouched(node, found))
        if not found and _private.has_values(trackable):
            plan.unsaved.append((path, trackable))
    optional = _COUNTER if target.is_checkpoint and counter is None else None
    for path, trackable in objects:
        if id(trackable) in planned or path == optional:
            continue
        if _private.has_values(trackable):
            plan.missing.append((path, trackable))
    return plan


def _bind(target: TargetGraph, nodes: Sequence[Node]) -> dict[int, Any]:
    """Return the object that each node stands for, in the order in which they were met."""
    bound: dict[int, Any] = {0: target.root}
    _bind_below(target, nodes, bound, 0)
    for local, number in nodes[0].children:
        if local in target.attached and number not in bound:
            bound[number] = target.attached[local]
            _bind_below(target, nodes, bound, number)
    for number, node in enumerate(nodes):
        for slot in node.slots:
            if number in bound and slot.original in bound and slot.slot not in bound:
                kept = target.slot(bound[number], bound[slot.original], slot.name)
                if kept is not None:
                    bound[slot.slot] = kept
    return bound


def _bind_below(
    target: TargetGraph, nodes: Sequence[Node], bound: dict[int, Any], start: int
) -> None:
    queue = [start]
    for number in queue:  # grows meanwhile: breadth first, so that the shortest path decides
        for local, child in nodes[number].children:
            if child in bound:
                continue
            found = target.child(bound[number], local)
            if found is not None:
                bound[child] = found
                queue.append(child)


def _untouched(node: Node, restorables: Iterable[Restorable]) -> Iterator[str]:
    """Yield the keys of a node that its object does not take."""
    taken = sorted(wanted.key for one in restorables for wanted in one.wanted)
    for _, key in node.attributes:
        # It may be but the beginning of the keys of its tensors, as for tables.
        index = bisect_left(taken, key)
        if index == len(taken) or not taken[index].startswith(key):
            yield key


def _counter(nodes: Sequence[Node]) -> int | None:
    return next((number for local, number in nodes[0].children if local == _COUNTER), None)


def match_by_name(target: TargetGraph, keys: Iterable[str]) -> Plan:
    """Decide which objects take the tensors of a checkpoint that has names only (TensorFlow 1)."""
    plan = Plan()
    present = set(keys)
    used: set[str] = set()
    for path, trackable in target.objects():
        if not _private.has_values(trackable):
            continue
        wholes = _private.global_restorables(trackable)
        if wholes and all(wanted.key in present for one in wholes for wanted in one.wanted):
            plan.matched.extend((path, one) for one in wholes)
            used.update(wanted.key for one in wholes for wanted in one.wanted)
        elif not (target.is_checkpoint and path == _COUNTER):
            plan.missing.append((path, trackable))
    plan.extra = sorted(present - used)
    return plan


def misfits(plan: Plan, arrays: Mapping[str, Array]) -> list[str]:
    """Say of every matched value that cannot be assigned what was expected and what was found."""
    lines = []
    for path, restorable in plan.matched:
        for wanted in restorable.wanted:
            array = arrays.get(wanted.key)
            if array is None:
                lines.append(
                    f"{wanted.key}: {path or 'the target'} takes it, and the checkpoint names it "
                    "but holds no such tensor"
                )
            elif not _fits(wanted, array):
                lines.append(
                    f"{wanted.key}: the target has {_expected(wanted)}, the checkpoint has "
                    f"{_found(array)}"
                )
    return lines


def describe_missing(objects: Iterable[tuple[str, Any]]) -> list[str]:
    """Say of (path, object) that have values, but none in the checkpoint, what they are."""
    return [
        f"{path or 'the target itself'}: the target has {_private.describe(trackable)}, the "
        "checkpoint has nothing for it"
        for path, trackable in objects
    ]


def _fits(wanted: Wanted, array: Array) -> bool:
    if wanted.dtype == tf.variant:
        return array.dtype == object
    if tf.as_dtype(array.dtype) != wanted.dtype:
        return False
    return wanted.shape is None or bool(wanted.shape.is_compatible_with(array.shape))


def _expected(wanted: Wanted) -> str:
    shape = "any shape of" if wanted.shape is None else f"{wanted.shape}"
    return f"{shape} {wanted.dtype.name}"


def _found(array: Array) -> str:
    dtype = "string" if array.dtype == object else array.dtype.name
    return f"{tf.TensorShape(array.shape)} {dtype}"


# --- executing -------------------------------------------------------------------------


def execute(plan: Plan, arrays: Mapping[str, Array], *, uri: str, keep: bool = True) -> None:
    """Give every matched object its values, or none.

    Args:
        plan: has no `misfits`.
        arrays: checkpoint key -> array; variables share their memory until they are updated.
        uri: for messages.
        keep: hold the old values meanwhile, and put them back after a failure.

    Raises:
        MismatchError: an object refused its values.
    """
    undo: list[Callable[[], None]] = []
    for path, restorable in plan.matched:
        values = [arrays[wanted.key] for wanted in restorable.wanted]
        try:
            if keep:
                undo.append(restorable.keep())
            restorable.put(values)
        except BaseException as error:
            notes = _put_back(undo)
            if not isinstance(error, Exception):
                raise
            raise MismatchError(
                f"restoring {path or 'the target'} raised {type(error).__name__}: {error}. "
                + (notes or "All old values are back."),
                uri=uri,
            ) from error


def _put_back(undo: Sequence[Callable[[], None]]) -> str:
    failed = []
    for step in reversed(undo):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the other values still have to go back
            failed.append(f"{type(error).__name__}: {error}")
    return f"Putting old values back failed too ({'; '.join(failed)})." if failed else ""


class CheckpointAssignment:
    """The values of one checkpoint, on their way into an object.

    Args:
        target: a `tf.train.Checkpoint`, or anything that ``tf.train.Checkpoint(target)`` takes:
            a Keras model, a `tf.Module`, any trackable object. Its variables have to exist:
            layers and optimizers that make theirs later have to be built.
        uri: for messages.
        scopes: those of whoever asked.
        partial: restore what is in both, and accept that the target has values that the
            checkpoint does not have and the other way round, as
            ``restore(...).expect_partial()`` does.

    Raises:
        NotApplicable: the target is no trackable object.
    """

    def __init__(self, target: Any, *, uri: str, scopes: Scopes, partial: bool = False) -> None:
        if not _private.is_trackable(target):
            raise NotApplicable(
                f"a checkpoint restores tf.train.Checkpoint, tf.Module, keras.Model and other "
                f"trackable objects, not a {type(target).__name__}; wrap lists and dicts: "
                "tf.train.Checkpoint(items=...)",
                uri=uri,
            )
        self._target = target
        self._uri = uri
        self._partial = partial
        self._scopes = scopes

    def assign(self, documents: Mapping[str, bytes], arrays: Mapping[str, Array]) -> None:
        """Give the target its values, all or none.

        Args:
            documents: the checkpoint's; its object graph, if it has one, is among them.
            arrays: checkpoint key -> array, 64-byte-aligned; the target's variables share their
                memory until they are first updated.

        Raises:
            Corrupt: the object graph is damaged.
            TooLarge: the object graph is larger than any.
            MismatchError: checkpoint and target do not fit; names every value that does not.
            CannotBuildFast: only `load_stock` can restore this checkpoint.
        """
        if not _private.trackables_work():
            raise CannotBuildFast("the fast path failed its self-test")
        if self._scopes.reason is not None:
            raise CannotBuildFast(self._scopes.reason)
        graph = documents.get(GRAPH_DOCUMENT)
        nodes = None if graph is None else parse_object_graph(graph, uri=self._uri)
        with turn(self._scopes):
            if _private.is_checkpoint(self._target):
                _ = self._target.save_counter  # made when first asked for, as `restore` does
            plan = self._plan(nodes, arrays)
            self._check(plan, nodes, arrays)
            execute(plan, arrays, uri=self._uri)

    def _plan(self, nodes: Sequence[Node] | None, arrays: Mapping[str, Array]) -> Plan:
        target = TargetGraph(self._target)
        if nodes is None:
            return match_by_name(target, arrays)
        try:
            return match_objects(target, nodes)
        except _private.CannotRestore as error:
            raise CannotBuildFast(f"an object of the checkpoint {error}") from error
        except Exception as error:
            raise CannotBuildFast(
                f"asking an object what it takes raised {type(error).__name__}: {error}"
            ) from error

    def load_stock(self, path: str) -> None:
        """Restore the checkpoint as TensorFlow does, which may leave half of it assigned.

        Args:
            path: the prefix of its files.

        Raises:
            MismatchError: TensorFlow could not restore it.
        """
        with turn(self._scopes):
            try:
                status = self._as_checkpoint(path).read(path)
                if self._partial:
                    status.expect_partial()
                else:
                    status.assert_existing_objects_matched()
            except Exception as error:
                raise MismatchError(
                    f"TensorFlow {tf.__version__} cannot restore this checkpoint: {error}",
                    uri=self._uri,
                ) from error

    def _as_checkpoint(self, path: str) -> tf.train.Checkpoint:
        """Return a checkpoint of the target, with a counter of saves if there is one to restore."""
        if not _private.is_checkpoint(self._target):
            return tf.train.Checkpoint(self._target)
        _ = self._target.save_counter  # made when first asked for
        if tf.train.load_checkpoint(path).has_tensor(f"{_COUNTER}/{_VALUE}"):
            return self._target
        children = tf.train.TrackableView.children(self._target)
        children.pop(_COUNTER)
        return tf.train.Checkpoint(**children)

    def _check(self, plan: Plan, nodes: Sequence[Node] | None, arrays: Mapping[str, Array]) -> None:
        lines = misfits(plan, arrays)
        if not self._partial:
            lines += describe_missing([*plan.missing, *plan.unsaved])
            lines += [
                f"{key}: the checkpoint has "
                f"{_found(arrays[key]) if key in arrays else 'it'}, the target has no such value"
                for key in plan.extra
            ]
        nothing = not plan.matched and bool(plan.missing or plan.extra)
        if lines or nothing:
            raise MismatchError(
                f"the checkpoint does not fit the {type(self._target).__name__}; nothing was "
                f"changed. {_advice(plan, nodes, nothing)}" + "".join(f"\n  {x}" for x in lines),
                uri=self._uri,
            )


def _advice(plan: Plan, nodes: Sequence[Node] | None, nothing: bool) -> str:
    if nodes is None:
        return (
            "It has no object graph, only names, as TensorFlow 1 wrote them, and its names have "
            "to be those of the target's variables; load_weights gives its tensors by name."
        )
    if nothing and not plan.missing:
        return "The target has no values yet, so none can be restored: build it first."
    if nothing:
        names = [local for local, _ in nodes[0].children if local not in ("root", _COUNTER)]
        below = ", ".join(f"{name}=..." for name in names[:8]) or "nothing"
        return (
            "No value of it belongs to the target: the object that was saved holds "
            f"tf.train.Checkpoint({below})."
        )
    if plan.extra and not plan.missing:
        return (
            "Build layers and optimizers first (optimizer.build(model.trainable_variables)): "
            "values have to exist to be restored. partial=True leaves out what the target does "
            "not have."
        )
    return "partial=True restores what is in both."
