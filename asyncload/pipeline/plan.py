"""Decides where tensors live and in which steps their bytes come: pure, no I/O.

Tensors that lie raw in the file are read straight to their slots in the arenas (`Read`), and so
are the raw stretches that others are made of (`Compound`). Encoded ones go by way of shared slabs
and workers (`Job`); the largest of them keep the slab that they were decoded into (``home``), so
that they are never copied.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from asyncload.errors import Corrupt
from asyncload.manifest import FileEntry, Strings, TensorEntry
from asyncload.memory import ALIGNMENT
from asyncload.resting import in_spells

from ._compound import Compound, compound_of, shown_name
from ._split import Piece, split

__all__ = [
    "Extent",
    "Job",
    "Layout",
    "Load",
    "Plan",
    "Read",
    "Slot",
    "layout",
    "make_plan",
    "plan_jobs",
    "plan_reads",
]

SEGMENT = 64 << 20  # bytes of an arena that several tensors share
PART = 16 << 20  # bytes of one read; 8 MiB is 5 % slower, 64 MiB no faster, and it cancels worse
GAP = 64 << 10  # bytes between two wanted ranges that are read rather than skipped
TENSORS = 32  # tensors that one step may complete: what the loop hands over in one go, 0.2 ms
PACK = 4 << 20  # bytes, stored or decoded, that one job takes where it can choose


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place: arena and byte offset in it, a multiple of 64."""

    arena: int
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of tensors.

    Attributes:
        arenas: bytes of each.
        slots: tensor name -> place.
    """

    arenas: tuple[int, ...]
    slots: Mapping[str, Slot]


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of one read.

    Attributes:
        name: the tensor that it belongs to; ``None`` for bytes between tensors, to be dropped.
        arena: where it goes.
        offset: first byte there.
        length: bytes.
    """

    name: str | None
    arena: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Read:
    """One read: bytes from ``offset`` of a file, to the extents one after the other."""

    file: int
    offset: int
    extents: tuple[Extent, ...]

    @property
    def length(self) -> int:
        """Bytes that are read."""
        return sum(extent.length for extent in self.extents)


@dataclass(frozen=True, slots=True)
class Load:
    """Encoded bytes to read: ``length`` of them at ``offset`` in the file, to ``at`` in a slab."""

    offset: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece of a tensor in the slabs of a job.

    Attributes:
        piece: what it is, and where in the tensor it goes.
        spans: (offset in the input slab, length) of each stored stretch, in the codec's order.
        at: its offset in the output slab.
    """

    piece: Piece
    spans: tuple[tuple[int, int], ...]
    at: int

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.piece.entry.name


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker decodes in one go.

    Attributes:
        file: index of the file that the encoded bytes are in.
        loads: what to read into the input slab, in the order of the file.
        pieces: what to decode; each names the tensor, and its bytes in the slabs.
        stored: bytes of the input slab.
        decoded: bytes of the output slab.
        home: the tensor, all of it, that has the output slab for its home; else ``None``.
    """

    file: int
    loads: tuple[Load, ...]
    pieces: tuple[Placed, ...]
    stored: int
    decoded: int
    home: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a load.

    Attributes:
        layout: where tensors live, but for those at home in a slab; and parts of compounds.
        compounds: tensors that are made of several raw stretches, or of other than numbers.
        reads: in the order of the files.
        jobs: those for homes first, as they take longest; then in the order of the files.
        fills: tensors that no stored bytes belong to.
        empty: tensors without elements.
    """

    layout: Layout
    compounds: tuple[Compound, ...]
    reads: tuple[Read, ...]
    jobs: tuple[Job, ...]
    fills: tuple[TensorEntry, ...]
    empty: tuple[TensorEntry, ...]


def make_plan(entries: Iterable[TensorEntry], files: Sequence[FileEntry]) -> Plan:
    """Plan a load.

    Args:
        entries: the tensors wanted; names are unique.
        files: what ``entry.file`` refers to.

    Raises:
        Corrupt: an entry lies outside its file, or has not the bytes that its shape needs.
    """
    ordered = sorted(entries, key=_position)
    empty = tuple(entry for entry in ordered if not entry.nbytes)
    filled = [entry for entry in ordered if entry.nbytes]
    compounds = tuple(made for entry in filled if (made := compound_of(entry)) is not None)
    raw = [entry for entry in filled if entry.encoding is None]
    parts = [part for made in compounds for part in made.parts]
    raw = sorted([*raw, *parts], key=_position)
    for entry in in_spells((*ordered, *parts)):
        _check(entry, files)
    composed = {made.entry.name for made in compounds}
    encoded = [e for e in filled if e.encoding is not None and e.name not in composed]
    jobs = plan_jobs([entry for entry in encoded if entry.spans()])
    fills = tuple(entry for entry in encoded if not entry.spans())
    homes = {job.home for job in jobs}
    placed = (
        entry
        for entry in in_spells(filled)
        if entry.name not in homes and not isinstance(entry.encoding, Strings)
    )
    places = _with_parts(layout(placed), compounds)
    reads = plan_reads(in_spells(raw), places)
    return Plan(places, compounds, reads, jobs, fills, empty)


def _position(entry: TensorEntry) -> tuple[int, int]:
    return entry.file, entry.offset


def _with_parts(own: Layout, compounds: Sequence[Compound]) -> Layout:
    """Add places for the parts of compounds: in the tensor itself, or in arenas of their own."""
    apart = layout(part for made in compounds if made.places is None for part in made.parts)
    slots = dict(own.slots)
    for name, slot in apart.slots.items():
        slots[name] = Slot(len(own.arenas) + slot.arena, slot.offset)
    for made in compounds:
        for part, at in zip(made.parts, made.places or (), strict=False):
            home = own.slots[made.entry.name]
            slots[part.name] = Slot(home.arena, home.offset + at)
    return Layout(own.arenas + apart.arenas, slots)


def _check(entry: TensorEntry, files: Sequence[FileEntry]) -> None:
    size = files[entry.file].size
    for offset, length in entry.spans():
        if offset < 0 or length < 0 or offset + length > size:
            raise Corrupt(
                f"its bytes {offset:,} to {offset + length:,} are not within the file, which has "
                f"{size:,}; fetch the file again",
                tensor=shown_name(entry),
            )
    if entry.encoding is None and entry.length != entry.nbytes:
        raise Corrupt(
            f"has {entry.length:,} bytes, but its shape {entry.shape} of {entry.dtype} needs "
            f"{entry.nbytes:,}; save the file again",
            tensor=shown_name(entry),
        )


def layout(entries: Iterable[TensorEntry], *, segment: int = SEGMENT) -> Layout:
    """Give each tensor a place: in the order given, in arenas of about ``segment`` bytes.

    A tensor of that size or more has an arena to itself, so that the memory of what is dropped
    early is returned early.
    """
    arenas: list[int] = []
    slots: dict[str, Slot] = {}
    shared: int | None = None  # the arena that small tensors go to at present
    for entry in entries:
        nbytes = entry.nbytes
        if nbytes >= segment:
            slots[entry.name] = Slot(len(arenas), 0)
            arenas.append(nbytes)
            continue
        start = 0 if shared is None else _aligned(arenas[shared])
        if shared is None or start + nbytes > segment:
            shared, start = len(arenas), 0
            arenas.append(0)
        slots[entry.name] = Slot(shared, start)
        arenas[shared] = start + nbytes
    return Layout(tuple(arenas), slots)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def plan_reads(
    entries: Iterable[TensorEntry],
    places: Layout,
    *,
    part: int = PART,
    gap: int = GAP,
    tensors: int = TENSORS,
) -> tuple[Read, ...]:
    """Plan how raw tensors come to their slots.

    No read crosses a multiple of ``part`` in its arena. As that is a multiple of the size of a huge
    page, no two reads at once make the same page, which would be work done twice.

    Args:
        entries: raw tensors, in the order of (file, offset).
        places: where they go.
        part: bytes that one read brings at most, gaps not counted.
        gap: bytes between two tensors that are read too, and dropped, to have one read of two.
        tensors: how many tensors one read touches at most.
    """
    reads: list[Read] = []
    extents: list[Extent] = []
    file = begin = end = touched = 0
    window: tuple[int, int] | None = None  # arena, and which stretch of `part` bytes in it

    def flush() -> None:
        if extents:
            reads.append(Read(file, begin, tuple(extents)))
            extents.clear()

    for entry in entries:
        slot = places.slots[entry.name]
        for offset, extent in _extents(entry, slot, part):
            skipped = offset - end
            here = (extent.arena, extent.offset // part)
            far = entry.file != file or not 0 <= skipped <= gap
            if far or here != window or touched == tensors:
                flush()
                file, begin, window, touched = entry.file, offset, here, 0
            elif skipped:
                extents.append(Extent(None, 0, 0, skipped))
            extents.append(extent)
            touched += 1
            end = offset + extent.length
    flush()
    return tuple(reads)


def _extents(entry: TensorEntry, slot: Slot, part: int) -> Iterable[tuple[int, Extent]]:
    """Cut a tensor at the multiples of ``part`` in its arena; yield (offset in file, extent)."""
    start, stop = slot.offset, slot.offset + entry.nbytes
    while start < stop:
        cut = min((start // part + 1) * part, stop)
        yield (
            entry.offset + start - slot.offset,
            Extent(entry.name, slot.arena, start, cut - start),
        )
        start = cut


def plan_jobs(
    entries: Iterable[TensorEntry], *, pack: int = PACK, gap: int = GAP, tensors: int = TENSORS
) -> tuple[Job, ...]:
    """Plan how encoded tensors are decoded.

    Small tensors are packed together, large ones are split where their encoding allows.

    Args:
        entries: encoded tensors with stored bytes, in the order of (file, offset).
        pack: bytes, stored or decoded, that one job takes where it can choose.
        gap: bytes between two stored stretches that are read too, to have one read of two.
        tensors: how many pieces one job has at most.
    """
    homes: list[Job] = []
    jobs: list[Job] = []
    waiting: list[Piece] = []
    stored = decoded = 0

    def flush() -> None:
        if waiting:
            jobs.append(_job(waiting, gap))
            waiting.clear()

    for entry in entries:
        pieces = split(entry, pack)
        if pieces[0].home:
            homes.extend(_job([piece], gap) for piece in pieces)
            continue
        for piece in pieces:
            grown = max(stored + piece.stored, decoded + piece.decoded)
            if waiting and (
                waiting[0].entry.file != entry.file or grown > pack or len(waiting) == tensors
            ):
                flush()
            if not waiting:
                stored = decoded = 0
            waiting.append(piece)
            stored += piece.stored
            decoded += piece.decoded
    flush()
    homes.sort(key=lambda job: -job.decoded)  # stable: the jobs of one home stay together
    return (*homes, *jobs)


def _job(pieces: Sequence[Piece], gap: int) -> Job:
    wanted = [span for piece in pieces for span in piece.entry.spans()]
    loads = _merge(sorted(wanted), gap)
    placed: list[Placed] = []
    used = 0
    for piece in pieces:
        placed.append(Placed(piece, _in_slab(piece.entry.spans(), loads), used))
        used = _aligned(used + piece.decoded)
    first = pieces[0]
    return Job(
        file=first.entry.file,
        loads=loads,
        pieces=tuple(placed),
        stored=loads[-1].at + loads[-1].length if loads else 0,
        decoded=used,
        home=first.entry.name if first.home else None,
    )


def _merge(spans: Iterable[tuple[int, int]], gap: int) -> tuple[Load, ...]:
    """Make one load of spans that overlap or lie at most ``gap`` bytes apart."""
    loads: list[Load] = []
    for offset, length in spans:
        last = loads[-1] if loads else None
        if last is not None and offset - (last.offset + last.length) <= gap:
            end = max(last.offset + last.length, offset + length)
            loads[-1] = Load(last.offset, end - last.offset, last.at)
        else:
            at = 0 if last is None else _aligned(last.at + last.length)
            loads.append(Load(offset, length, at))
    return tuple(loads)


def _in_slab(
    spans: Iterable[tuple[int, int]], loads: Sequence[Load]
) -> tuple[tuple[int, int], ...]:
    starts = [load.offset for load in loads]
    found = []
    for offset, length in spans:
        load = loads[bisect_right(starts, offset) - 1]
        found.append((load.at + offset - load.offset, length))
    return tuple(found)
