"""Turns a plan into memory: arenas, arrays over them, and buffers to read into.

This takes some microseconds for each tensor, and so runs in a thread, before the first read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.manifest import FileEntry, TensorEntry, numpy_dtype
from asyncload.memory import Arena, ArenaPool
from asyncload.resting import in_spells

from ._compound import Compound
from ._verify import Checksums, Stretch
from .plan import GAP, Job, Layout, Plan, Read, make_plan

__all__ = ["Array", "Prepared", "Step", "as_array", "prepare"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One read, ready to run.

    Attributes:
        file: index of the file.
        offset: first byte in it.
        buffers: to be filled one after the other.
        names: the tensors that it brings, or brings a part of.
        checked: what of its bytes belongs to tensors whose checksum is to be compared.
    """

    file: int
    offset: int
    buffers: Sequence[memoryview]
    names: Sequence[str]
    checked: Sequence[Stretch] = ()


@dataclass(slots=True)
class Prepared:
    """A load that is ready to run.

    Attributes:
        entries: the tensors by name.
        views: tensor name -> its writable bytes, but for those at home in a slab; and name of a
            compound's part -> its bytes.
        arrays: tensor name -> the read-only array over those bytes.
        compounds: name of a part -> the compound that it is of.
        missing: tensor name -> how many steps, pieces and parts it still waits for; and name of a
            part -> how many steps.
        checksums: of what the steps bring.
        steps: the reads, the first one last.
        jobs: the decodes, the first one last.
        fills: tensors that no stored bytes belong to.
        empty: tensors without elements.
    """

    entries: dict[str, TensorEntry]
    views: dict[str, memoryview]
    arrays: dict[str, Array]
    compounds: Mapping[str, Compound]
    missing: Counter[str]
    checksums: Checksums
    steps: list[Step]
    jobs: list[Job]
    fills: Sequence[TensorEntry]
    empty: Sequence[TensorEntry]

    def clear(self) -> None:
        """Let go of all memory."""
        self.views.clear()
        self.arrays.clear()
        self.steps.clear()


def prepare(
    entries: Iterable[TensorEntry],
    files: Sequence[FileEntry],
    pool: ArenaPool | None,
    verify: bool,
) -> Prepared:
    """Plan a load and get its memory; pages are made only when they are written to.

    Args:
        entries: the tensors wanted.
        files: what they refer to.
        pool: where memory may be had.
        verify: whether checksums are to be compared.

    Raises:
        Corrupt: an entry contradicts its file.
        MemoryLimitExceeded: the system refuses.
    """
    by_name = {entry.name: entry for entry in entries}
    plan = make_plan(by_name.values(), files)
    arenas = [Arena(nbytes, pool) for nbytes in plan.layout.arenas]
    parts = {part.name: made for made in plan.compounds for part in made.parts}
    stored = by_name | {part.name: part for made in plan.compounds for part in made.parts}
    views = {
        name: arenas[slot.arena].view(slot.offset, stored[name].nbytes)
        for name, slot in in_spells(plan.layout.slots.items())
    }
    arrays = {
        name: as_array(by_name[name], view)
        for name, view in in_spells(views.items())
        if name in by_name
    }
    arrays |= {entry.name: as_array(entry, memoryview(b"")) for entry in plan.empty}
    guarded = {name: entry for name, entry in stored.items() if verify and _guarded(entry)}
    steps = _steps(in_spells(reversed(plan.reads)), arenas, plan.layout, guarded)
    return Prepared(
        entries=by_name,
        views=views,
        arrays=arrays,
        compounds=parts,
        missing=_count(plan),
        checksums=Checksums(Counter(each.entry.name for step in steps for each in step.checked)),
        steps=steps,
        jobs=list(reversed(plan.jobs)),
        fills=plan.fills,
        empty=plan.empty,
    )


def _guarded(entry: TensorEntry) -> bool:
    return entry.encoding is None and entry.crc32c is not None


def as_array(entry: TensorEntry, view: memoryview) -> Array:
    """Return the read-only array of a tensor's bytes, which lives on their memory."""
    dtype = numpy_dtype(entry.dtype)
    if not view.nbytes:
        array = np.empty(entry.shape, dtype)
        array.flags.writeable = False
        return array
    # Over a read-only buffer, so that nobody can make it writable again.
    return np.frombuffer(view.toreadonly(), dtype).reshape(entry.shape)


def _count(plan: Plan) -> Counter[str]:
    missing = Counter(name for read in plan.reads for name in _names(read))
    missing.update(piece.name for job in plan.jobs for piece in job.pieces)
    missing.update(made.entry.name for made in plan.compounds for _ in made.parts)
    return missing


def _names(read: Read) -> list[str]:
    return [extent.name for extent in read.extents if extent.name is not None]


def _steps(
    reads: Iterable[Read],
    arenas: Sequence[Arena],
    places: Layout,
    guarded: Mapping[str, TensorEntry],
) -> list[Step]:
    # What lies between tensors; never looked at, so that all reads may write to it at once.
    dropped = memoryview(bytearray(GAP))
    steps = []
    for read in reads:
        buffers, checked = [], []
        for extent in read.extents:
            if extent.name is None:
                buffers.append(dropped[: extent.length])
                continue
            view = arenas[extent.arena].view(extent.offset, extent.length)
            buffers.append(view)
            if (entry := guarded.get(extent.name)) is not None:
                checked.append(
                    Stretch(entry, extent.offset - places.slots[extent.name].offset, view)
                )
        steps.append(Step(read.file, read.offset, buffers, _names(read), checked))
    return steps
