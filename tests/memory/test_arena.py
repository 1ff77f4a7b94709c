"""Arenas: aligned, huge pages, alive as long as an array, and gone after."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.errors import MemoryLimitExceeded
from asyncload.memory import ALIGNMENT, HUGE_PAGE, Arena

MIB = 1 << 20


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


@pytest.mark.parametrize("nbytes", [1, 4095, HUGE_PAGE - 1, HUGE_PAGE, 5 * MIB + 7, 64 * MIB])
def test_begins_at_a_huge_page_and_is_writable_to_its_last_byte(nbytes: int) -> None:
    arena = Arena(nbytes)
    view = arena.view(0, nbytes)
    assert address(view) % HUGE_PAGE == 0
    assert not view.readonly
    assert view[0] == view[-1] == 0
    view[0] = view[-1] = 7


@given(st.integers(0, 4096), st.integers(0, 4096))
def test_views_are_where_they_should_be(offset: int, nbytes: int) -> None:
    arena = Arena(4096)
    whole = arena.view(0, 4096)
    if offset + nbytes > 4096:
        with pytest.raises(ValueError, match="not inside"):
            arena.view(offset, nbytes)
        return
    view = arena.view(offset, nbytes)
    view[:] = b"x" * nbytes
    assert whole.tobytes() == bytes(offset) + b"x" * nbytes + bytes(4096 - offset - nbytes)


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (0, -1), (1, 10)])
def test_no_view_reaches_outside(offset: int, nbytes: int) -> None:
    with pytest.raises(ValueError, match="not inside"):
        Arena(10).view(offset, nbytes)


def test_arrays_keep_it_alive_and_the_last_one_frees_it() -> None:
    gc.disable()  # it is freed by counting references, not by the collector
    try:
        before = resident()
        arena = Arena(64 * MIB)
        arrays = [np.frombuffer(arena.view(i * 16 * MIB, 16 * MIB), np.float32) for i in range(4)]
        for array in arrays:
            array[:] = 1
        del arena
        assert resident() - before > 60 * MIB
        last = arrays[2]
        del arrays, array
        assert resident() - before > 60 * MIB
        assert last.sum(dtype=np.float64) == 4 * MIB
        del last
        assert resident() - before < 8 * MIB
    finally:
        gc.enable()


def test_is_in_huge_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        return
    arena = Arena(16 * MIB)
    arena.view(0, 16 * MIB)[:] = bytes(16 * MIB)
    start = address(arena.view(0, 1))
    flags = smaps(start)
    assert "hg" in flags["VmFlags"].split(), "MADV_HUGEPAGE was not given"


def smaps(start: int) -> dict[str, str]:
    """Return what the kernel says about the mapping that begins at ``start``."""
    found: dict[str, str] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            first, _, last = line.split()[0].partition("-")
            inside = int(first, 16) <= start < int(last, 16)
        elif inside:
            found[key] = value
    return found


def test_little_is_not_taken_in_huge_pages() -> None:
    """A hundred small arenas must not cost a hundred huge pages."""
    before = resident()
    arenas = [Arena(64 << 10) for _ in range(100)]
    for arena in arenas:
        arena.view(0, 64 << 10)[:] = b"x" * (64 << 10)
    assert resident() - before < 30 * MIB


@pytest.mark.parametrize("nbytes", [1 << 62, sys.maxsize - HUGE_PAGE, 1 << 70])
def test_the_impossible_is_refused(nbytes: int) -> None:
    with pytest.raises(MemoryLimitExceeded, match="refused") as caught:
        Arena(nbytes)
    assert isinstance(caught.value, MemoryError)


def test_alignment_divides_a_huge_page() -> None:
    assert HUGE_PAGE % ALIGNMENT == 0


def resident() -> int:
    return int(psutil.Process().memory_info().rss)
