"""The plan: every byte of every tensor exactly once, to places of its own, within limits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncload.errors import Corrupt
from asyncload.manifest import Chunk, Chunked, Deflate, FileEntry, Inline, Reorder, TensorEntry
from asyncload.memory import ALIGNMENT
from asyncload.pipeline.plan import Job, Plan, Read, layout, make_plan, plan_jobs, plan_reads

MIB = 1 << 20


def entry(
    name: str, nbytes: int, offset: int = 0, file: int = 0, encoding: Deflate | Inline | None = None
) -> TensorEntry:
    return TensorEntry(name, "uint8", (nbytes,), file, offset, nbytes, encoding)


# --- places ------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 20))
def test_places_are_disjoint_aligned_and_inside(sizes: list[int], tenths: int) -> None:
    segment = tenths * 200
    entries = [entry(str(index), size) for index, size in enumerate(sizes)]
    places = layout(entries, segment=segment)
    taken: dict[int, list[tuple[int, int]]] = {}
    for one in entries:
        slot = places.slots[one.name]
        assert slot.offset % ALIGNMENT == 0
        assert slot.offset + one.nbytes <= places.arenas[slot.arena]
        taken.setdefault(slot.arena, []).append((slot.offset, slot.offset + one.nbytes))
    for arena, spans in taken.items():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert len(spans) == 1 or places.arenas[arena] <= segment
    assert len(taken) == len(places.arenas)


def test_large_tensors_have_arenas_to_themselves() -> None:
    sizes = [10, 70 * MIB, 20, 64 * MIB, 30]
    places = layout([entry(str(index), size) for index, size in enumerate(sizes)])
    assert [places.slots[str(index)].arena for index in range(5)] == [0, 1, 0, 2, 0]
    assert places.arenas == (64 * 2 + 30, 70 * MIB, 64 * MIB)


# --- reads -------------------------------------------------------------------------------


@st.composite
def raw_files(draw: st.DrawFn) -> list[TensorEntry]:
    """Raw tensors in some files: side by side, apart, overlapping, of all sizes."""
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    entries = []
    for file in range(draw(st.integers(1, 3))):
        position = chance.randrange(50)
        for index in range(draw(st.integers(0, 25))):
            size = chance.choice([1, 5, 64, 200, 1000, 5000])
            entries.append(entry(f"{file}/{index}", size, position, file))
            step = chance.choice([size, size, size + 3, size + 90, size + 5000, 0])
            position += step
    return sorted(entries, key=lambda one: (one.file, one.offset))


@given(raw_files(), st.sampled_from([64, 1024, 4096]), st.integers(0, 100), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_every_byte_comes_once_to_its_place(
    entries: list[TensorEntry], part: int, gap: int, tensors: int
) -> None:
    places = layout(entries, segment=2048)
    reads = plan_reads(entries, places, part=part, gap=gap, tensors=tensors)
    came: dict[str, list[tuple[int, int]]] = {}
    by_name = {one.name: one for one in entries}
    for read in reads:
        _within_limits(read, part, gap, tensors)
        position = read.offset
        for extent in read.extents:
            if extent.name is not None:
                one, slot = by_name[extent.name], places.slots[extent.name]
                start = extent.offset - slot.offset
                assert (one.file, one.offset + start) == (read.file, position)
                assert extent.arena == slot.arena
                came.setdefault(one.name, []).append((start, start + extent.length))
            position += extent.length
    assert came.keys() == by_name.keys()
    for name, spans in came.items():
        assert spans[0][0] == 0
        assert all(a[1] == b[0] for a, b in pairwise(spans))
        assert spans[-1][1] == by_name[name].nbytes
    assert list(came) == [one.name for one in entries], "not in the order of the files"


def _within_limits(read: Read, part: int, gap: int, tensors: int) -> None:
    wanted = [extent for extent in read.extents if extent.name is not None]
    assert 1 <= len(wanted) <= tensors
    assert sum(extent.length for extent in wanted) <= part
    assert all(extent.length <= gap for extent in read.extents if extent.name is None)
    assert read.extents[0].name is not None
    assert read.extents[-1].name is not None
    assert len({(extent.arena, extent.offset // part) for extent in wanted}) == 1


def test_neighbours_share_a_read() -> None:
    entries = [entry(str(index), 1000, index * 1010) for index in range(30)]
    reads = plan_reads(entries, layout(entries))
    assert len(reads) == 1
    assert reads[0].length == 29 * 1010 + 1000


def test_a_large_tensor_is_cut_at_huge_pages() -> None:
    entries = [entry("small", 100, 0), entry("large", 60 * MIB, 100)]
    places = layout(entries)
    reads = plan_reads(entries, places)
    assert [read.length for read in reads] == [
        16 * MIB - 28,  # the small one's padding is not in the file
        16 * MIB,
        16 * MIB,
        12 * MIB + 128,
    ]
    assert all(read.extents[0].offset % (2 * MIB) == 0 for read in reads)


# --- jobs --------------------------------------------------------------------------------


def chunked(
    name: str,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    *,
    offset: int = 0,
    keep: float = 1.0,
    seed: int = 0,
) -> TensorEntry:
    chance = random.Random(seed)
    steps = [range(0, size, step) for size, step in zip(shape, chunk, strict=True)]
    origins = [origin for origin in product(*steps) if chance.random() <= keep]
    chance.shuffle(origins)
    chunks, position = [], offset
    for origin in origins:
        length = chance.randrange(1, 200)
        chunks.append(Chunk(origin, position, length))
        position += length + chance.choice([0, 0, 500])
    chance.shuffle(chunks)
    encoding = Chunked(chunk, ((1, (4,)),), tuple(chunks), fill=b"\7")
    first = min((one.offset for one in chunks), default=0)
    total = sum(one.length for one in chunks)
    return TensorEntry(name, "uint8", shape, 0, first, total, encoding)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.data(),
    st.sampled_from([50, 500, 5000]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_every_chunk_is_decoded_once_where_it_belongs(
    shape: list[int], data: st.DataObject, pack: int, keep: float, seed: int
) -> None:
    chunk = tuple(data.draw(st.integers(1, 12)) for _ in shape)
    whole = chunked("c", tuple(shape), chunk, keep=keep, seed=seed)
    if not whole.spans():
        return
    jobs = plan_jobs([whole], pack=pack, gap=100)
    _check_jobs(jobs, [whole])


def _check_jobs(jobs: Sequence[Job], entries: Sequence[TensorEntry]) -> None:
    covered: Counter[tuple[str, int]] = Counter()
    seen: Counter[tuple[str, int, int]] = Counter()
    by_name = {one.name: one for one in entries}
    for job in jobs:
        ends = [(load.at, load.at + load.length) for load in job.loads]
        assert all(a[1] <= b[0] for a, b in pairwise(ends))
        assert all(end <= job.stored for _, end in ends)
        outs = []
        for placed in job.pieces:
            piece, whole = placed.piece, by_name[placed.name]
            assert placed.at % ALIGNMENT == 0
            outs.append((placed.at, placed.at + piece.decoded))
            for (at, length), (offset, stored) in zip(
                placed.spans, piece.entry.spans(), strict=True
            ):
                load = next(x for x in job.loads if x.at <= at and at + length <= x.at + x.length)
                assert load.offset + at - load.at == offset
                assert length == stored
                seen[placed.name, offset, length] += 1
            _check_piece(piece.entry, piece.at, whole, home=job.home is not None)
            covered[placed.name, piece.at] += 1
            assert piece.covered == _all_chunks(whole if job.home else piece.entry)
        assert outs[-1][1] <= job.decoded
        assert all(a[1] <= b[0] for a, b in pairwise(outs))
    for whole in entries:
        for offset, length in whole.spans():
            assert seen[whole.name, offset, length] >= 1
        starts = sorted(at for name, at in covered if name == whole.name)
        assert starts[0] == 0


def _check_piece(piece: TensorEntry, at: int, whole: TensorEntry, *, home: bool) -> None:
    if home:
        assert (piece.shape, at) == (whole.shape, 0)
        return
    row = whole.nbytes // whole.shape[0]
    first = at // row
    assert at % row == 0
    assert piece.shape[1:] == whole.shape[1:]
    assert first + piece.shape[0] <= whole.shape[0]
    assert isinstance(piece.encoding, Chunked)
    assert isinstance(whole.encoding, Chunked)
    original = {chunk.offset: chunk for chunk in whole.encoding.chunks}
    for chunk in piece.encoding.chunks:
        assert 0 <= chunk.origin[0] < piece.shape[0]
        moved = (chunk.origin[0] + first, *chunk.origin[1:])
        assert moved == original[chunk.offset].origin


def _all_chunks(one: TensorEntry) -> bool:
    if not isinstance(one.encoding, Chunked):
        return True
    count = prod(-(-size // step) for size, step in zip(one.shape, one.encoding.chunk, strict=True))
    return count == len(one.encoding.chunks)


def test_rows_are_shared_out_among_jobs() -> None:
    whole = chunked("c", (1000, 10_000), (100, 100))
    jobs = plan_jobs([whole])
    assert [job.home for job in jobs] == [None] * 3
    assert [p.piece.at for job in jobs for p in job.pieces] == [0, 4_000_000, 8_000_000]
    _check_jobs(jobs, [whole])


def test_what_has_no_rows_to_split_by_keeps_its_slab() -> None:
    whole = chunked("c", (200, 100_000), (200, 100), seed=3)
    jobs = plan_jobs([whole], pack=20_000)
    assert len(jobs) > 2
    assert {job.home for job in jobs} == {"c"}
    assert {job.decoded for job in jobs} == {20_000_000}
    _check_jobs(jobs, [whole])


def test_small_ones_are_packed_together() -> None:
    entries = [
        entry(str(index), 200_000, index * 200_000, encoding=Deflate(0, 200_000))
        for index in range(50)
    ]
    jobs = plan_jobs(entries)
    assert [len(job.pieces) for job in jobs] == [20, 20, 10]
    assert all(len(job.loads) == 1 for job in jobs)
    _check_spans(jobs)


def test_no_job_completes_more_tensors_than_the_loop_can_take() -> None:
    entries = [entry(str(i), 10, i * 10, encoding=Deflate(0, 10)) for i in range(1000)]
    assert max(len(job.pieces) for job in plan_jobs(entries)) == 32


def _check_spans(jobs: Sequence[Job]) -> None:
    for job in jobs:
        for placed in job.pieces:
            assert len(placed.spans) == len(placed.piece.entry.spans())


def test_byte_order_is_changed_in_parts() -> None:
    shape = (3000, 1000)
    whole = TensorEntry("r", "float32", shape, 0, 100, 12_000_000, Reorder("C", swap=True))
    jobs = plan_jobs([whole])
    rows = [placed.piece for job in jobs for placed in job.pieces]
    assert [piece.at for piece in rows] == [0, 4_192_000, 8_384_000]
    assert [piece.entry.offset - 100 for piece in rows] == [piece.at for piece in rows]
    assert sum(piece.entry.shape[0] for piece in rows) == 3000
    assert sum(piece.decoded for piece in rows) == whole.nbytes


def test_memory_order_is_changed_in_one_go() -> None:
    shape = (3000, 1000)
    whole = TensorEntry("r", "float32", shape, 0, 0, 12_000_000, Reorder("F"))
    (job,) = plan_jobs([whole])
    assert job.home is None
    large = TensorEntry("r", "float64", shape, 0, 0, 24_000_000, Reorder("F"))
    (job,) = plan_jobs([large])
    assert job.home == "r"


# --- all together ------------------------------------------------------------------------


def test_each_kind_goes_its_way() -> None:
    entries = [
        entry("raw", 100, 0),
        entry("deflated", 100, 100, encoding=Deflate(0, 100)),
        TensorEntry("inline", "uint8", (3,), 0, 0, 0, Inline(b"abc")),
        TensorEntry("unwritten", "uint8", (3,), 0, 0, 0, Chunked((3,), (), ())),
        TensorEntry("empty", "float32", (0, 5), 0, 0, 0),
        TensorEntry("scalar", "float32", (), 0, 200, 4),
        entry("homely", 17 * MIB, 204, encoding=Deflate(0, 17 * MIB)),
    ]
    plan = make_plan(entries, [FileEntry("", 18 * MIB, "1")])
    assert {extent.name for read in plan.reads for extent in read.extents} == {
        "raw",
        "scalar",
        None,
    }
    assert [[p.name for p in job.pieces] for job in plan.jobs] == [["homely"], ["deflated"]]
    assert {one.name for one in plan.fills} == {"inline", "unwritten"}
    assert {one.name for one in plan.empty} == {"empty"}
    assert plan.layout.slots.keys() == {"raw", "deflated", "inline", "unwritten", "scalar"}


def test_nothing_to_do() -> None:
    assert make_plan([], []) == Plan(layout([]), (), (), (), (), ())


@pytest.mark.parametrize(
    "wrong",
    [
        TensorEntry("t", "uint8", (10,), 0, 95, 10),
        TensorEntry("t", "uint8", (10,), 0, -1, 10),
        TensorEntry("t", "uint8", (10,), 0, 0, 11),
        TensorEntry("t", "float32", (10,), 0, 0, 10),
        TensorEntry("t", "uint8", (10,), 0, 20, 90, Deflate(0, 10)),
        TensorEntry("t", "uint8", (4,), 0, 0, 9, Chunked((4,), (), (Chunk((0,), 99, 9),))),
    ],
)
def test_an_entry_that_contradicts_its_file_is_refused(wrong: TensorEntry) -> None:
    with pytest.raises(Corrupt, match=r"100|needs") as caught:
        make_plan([wrong], [FileEntry("", 100, "1")])
    assert caught.value.tensor == "t"
