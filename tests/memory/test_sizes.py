"""Sizes as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.memory import parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("12b", 12),
        ("4GiB", 4 << 30),
        ("64 MiB", 64 << 20),
        ("1.5kib", 1536),
        ("500MB", 500_000_000),
        (" 2 TB ", 2_000_000_000_000),
        ("3g", 3_000_000_000),
    ],
)
def test_reads_what_people_write(text: int | str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 PiB", "1e9", "1,000", "4 Gi B", "٤GiB", -1])
def test_refuses_what_is_no_size(text: int | str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize("value", [None, True, 1.5, b"1"])
def test_refuses_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match="4GiB"):
        parse_size(value)


@given(st.integers(0, 1 << 80), st.sampled_from(["k", "M", "g", "T"]))
def test_is_exact_however_large(number: int, unit: str) -> None:
    power = "kmgt".index(unit.lower()) + 1
    assert parse_size(f"{number}{unit}iB") == number * 1024**power
    assert parse_size(f"{number} {unit}B") == number * 1000**power
