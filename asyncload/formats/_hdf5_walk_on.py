"""Walks an HDF5 file of which some bytes are still to come; runs in a worker process."""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from h5py import h5d, h5g, h5l, h5o

from asyncload.interfaces import Bounds

from ._hdf5_early import Span, Walked
from ._hdf5_file import OpenFile, open_path
from ._hdf5_layout import Layouts
from ._hdf5_rows import Row
from ._hdf5_types import NoTensor
from ._hdf5_walk import text_of
from ._hdf5_window import BytesMissing

__all__ = ["walk_on"]

Result = TypeVar("Result")
Object = tuple[int, bytes]  # where it lies, and its path

_MISSES = 4  # objects that are not in yet, after which no further one is tried
_NEAR = 4 << 20  # bytes from a group to what comes soon after it
_NODE = 544  # bytes of a node of a group's list of members, as HDF5 writes them by default


@dataclass(slots=True)
class _State:
    """How far a walk has come.

    Attributes:
        groups: groups of which the members are not known yet.
        others: a heap of objects of which it is not known yet what they are.
        seen: where all objects lie that were found.
        counted: see `Layouts.counted`.
    """

    groups: list[Object] = field(default_factory=lambda: [(0, b"/")])
    others: list[Object] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    counted: tuple[int, int, int] = (0, 0, 0)


def walk_on(state: bytes, bounds: Bounds, *where: Any) -> Walked:
    """Go on with a walk.

    Args:
        state: what `Walked` of the step before has; at first empty.
        bounds: what the file may declare.
        where: as `open_path` takes it.

    Raises: as `index_hdf5` does.
    """
    at: _State = pickle.loads(state) if state else _State()  # noqa: S301  a worker made it
    try:
        with open_path(*where) as file:
            return _Walk(file, at, bounds).go_on()
    except BytesMissing as missing:  # what opening it takes
        return Walked(state=pickle.dumps(at), apart=((missing.offset, missing.length),))


class _Walk:
    """One step of a walk.

    Args:
        file: open.
        state: changed as it goes on.
        bounds: what the file may declare.
    """

    def __init__(self, file: OpenFile, state: _State, bounds: Bounds) -> None:
        self._file = file
        self._window = file.window
        self._root = h5g.open(file.id, b"/")
        self._userblock = file.id.get_create_plist().get_userblock()
        self._state = state
        self._bounds = bounds
        self._rows: list[Row] = []
        self._left_out: list[tuple[str, str]] = []
        self._apart: list[Span] = []
        self._next: list[Span] = []
        self._odd = False

    def go_on(self) -> Walked:
        """Walk as far as the bytes that are in allow."""
        state, waiting = self._state, list[Object]()
        groups, state.groups = state.groups, []
        for group in groups:
            self._list(group)
        while state.others and not self._odd and len(state.groups) + len(waiting) < _MISSES:
            each = heapq.heappop(state.others)
            try:
                self._look_at(each)
            except BytesMissing as missing:
                waiting.append(each)
                self._next.append((missing.offset, missing.length))
        state.others = waiting + state.others
        heapq.heapify(state.others)
        left = state.groups or state.others
        return Walked(
            rows=tuple(self._rows),
            left_out=tuple(self._left_out),
            state=pickle.dumps(state) if left else b"",
            apart=tuple(dict.fromkeys(self._apart)),
            next=min(self._next, default=None),
            odd=self._odd,
        )

    def _look_at(self, each: Object) -> None:
        path = each[1]
        found = self._tried(lambda: h5o.open(self._root, path))
        if isinstance(found, h5g.GroupID):
            self._list(each)
        elif isinstance(found, h5d.DatasetID):
            self._describe(found, text_of(path, self._file.uri))

    def _describe(self, dataset: Any, name: str) -> None:
        layouts = Layouts(
            self._file.length,
            self._userblock,
            self._file.uri,
            self._bounds,
            self._state.counted,
        )
        try:
            self._rows.append(self._tried(lambda: layouts.row(dataset, name)))
        except NoTensor as reason:
            self._left_out.append((name, reason.message))
        self._state.counted = layouts.counted

    def _list(self, group: Object) -> None:
        """Find the members of a group; where bytes are missing for that, note which."""
        self._window.ahead.clear()
        try:
            members = self._tried(lambda: self._members(group[1]))
        except BytesMissing as missing:
            self._state.groups.append(group)
            spans = [(missing.offset, missing.length)]
            spans += [(offset, _NODE) for offset in sorted(self._window.ahead)]
            for span in spans:
                near = abs(span[0] - group[0]) < _NEAR
                (self._next if near else self._apart).append(span)
            return
        for member in members:
            # Found twice, it is one object by two names, or a group within itself.
            self._odd |= member[0] in self._state.seen
            self._state.seen.add(member[0])
            heapq.heappush(self._state.others, member)

    def _members(self, path: bytes) -> list[Object]:
        members: list[Object] = []
        prefix = b"" if path == b"/" else path + b"/"

        def visit(name: bytes, link: Any) -> None:
            self._odd |= link.type != h5l.TYPE_HARD
            members.append((link.u, prefix + name))

        group = h5g.open(self._file.id, path)  # closed with the last reference
        group.links.iterate(visit, info=True)
        return members

    def _tried(self, function: Callable[[], Result]) -> Result:
        """Call ``function``; whatever HDF5 makes of missing bytes, raise `BytesMissing`."""
        window = self._window
        window.error = None
        try:
            return function()
        finally:
            missing, window.error = window.error, None
            if isinstance(missing, BytesMissing):
                raise missing
