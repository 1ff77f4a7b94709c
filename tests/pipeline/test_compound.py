"""What strings and partitioned variables are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.errors import Corrupt
from asyncload.manifest import FileEntry, Part, Partitioned, Strings, TensorEntry
from asyncload.pipeline._compound import compound_of, extra_bytes, shown_name
from asyncload.pipeline.plan import make_plan

FILES = [FileEntry("a", 1000, "1"), FileEntry("b", 1000, "1")]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Return a shape, and a part of it that is not empty."""
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=4)))
    starts = [draw(st.integers(0, size - 1)) for size in shape]
    stops = [draw(st.integers(a + 1, size)) for a, size in zip(starts, shape, strict=True)]
    return shape, tuple(slice(*ends) for ends in zip(starts, stops, strict=True))


@given(boxes(), st.sampled_from(["int8", "int16", "float64", "bfloat16"]))
def test_a_place_is_where_the_part_lies_in_one_stretch(
    box: tuple[tuple[int, ...], tuple[slice, ...]], dtype: str
) -> None:
    shape, where = box
    size = TensorEntry("t", dtype, (), 0, 0, 0).nbytes
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    inside = numbers[where]
    part = Part(
        tuple(each.start for each in where), inside.shape, 1, 7, inside.size * size, crc32c=5
    )
    entry = TensorEntry("t", dtype, shape, 1, 7, part.length, Partitioned((part,)))
    made = compound_of(entry)
    assert made is not None
    flat = inside.reshape(-1)
    contiguous = bool((np.diff(flat) == 1).all())
    assert (made.places is not None) == contiguous
    if made.places is not None:
        assert made.places == (int(flat[0]) * size,)
    assert extra_bytes(made) == (0 if contiguous else part.length)
    (raw,) = made.parts
    assert (raw.nbytes, raw.length, raw.offset, raw.crc32c) == (part.length, part.length, 7, 5)
    assert shown_name(raw) == "t"


def partitioned(*parts: Part) -> TensorEntry:
    return TensorEntry("table", "float32", (4, 5), 0, 100, 80, Partitioned(parts))


TOP, BOTTOM = Part((0, 0), (3, 5), 0, 100, 60), Part((3, 0), (1, 5), 1, 0, 20)
LEFT, RIGHT = Part((0, 0), (4, 2), 0, 100, 32), Part((0, 2), (4, 3), 1, 0, 48)


def test_rows_are_read_to_their_place() -> None:
    plan = make_plan([partitioned(BOTTOM, TOP)], FILES)
    assert plan.layout.arenas == (80,)
    read = {
        extent.offset: (each.file, each.offset) for each in plan.reads for extent in each.extents
    }
    assert read == {0: (0, 100), 60: (1, 0)}


def test_columns_are_read_beside_it() -> None:
    plan = make_plan([partitioned(LEFT, RIGHT), TensorEntry("x", "int8", (3,), 0, 50, 3)], FILES)
    assert len(plan.layout.arenas) == 2, "what is dropped shares no memory with what stays"
    own = {plan.layout.slots[name].arena for name in ("table", "x")}
    apart = {plan.layout.slots[part.name].arena for part in plan.compounds[0].parts}
    assert (own, apart) == ({0}, {1})


def test_strings_have_no_memory_of_their_own() -> None:
    plan = make_plan([TensorEntry("s", "object", (3,), 0, 10, 50, Strings())], FILES)
    assert "s" not in plan.layout.slots
    assert [read.length for read in plan.reads] == [50]
    assert extra_bytes(plan.compounds[0]) >= 50 + 3 * 40


def test_no_elements_need_no_read() -> None:
    none = replace(partitioned(replace(TOP, shape=(0, 5), length=0)), shape=(0, 5), length=0)
    plan = make_plan([none, TensorEntry("s", "object", (0,), 0, 10, 4, Strings())], FILES)
    assert not plan.reads
    assert {entry.name for entry in plan.empty} == {"table", "s"}


@pytest.mark.parametrize(
    "entry",
    [
        partitioned(replace(TOP, offset=950), BOTTOM),
        partitioned(replace(TOP, length=59), BOTTOM),
        TensorEntry("table", "object", (3,), 0, 990, 50, Strings()),
    ],
)
def test_what_is_not_in_the_file(entry: TensorEntry) -> None:
    with pytest.raises(Corrupt) as caught:
        make_plan([entry], FILES)
    assert caught.value.tensor == "table"
