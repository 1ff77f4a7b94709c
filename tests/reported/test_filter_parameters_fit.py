"""Parameters of HDF5's filters are a file's word: they fit the elements, or the file is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z

import asyncload

pytestmark = pytest.mark.either_loop

DATA = np.random.default_rng(0).random((64, 50))


def pipeline(path: Path, *filters: tuple[int, Sequence[int]], data=DATA) -> Path:  # type: ignore[no-untyped-def]
    """Write a dataset through filters, gzip (1) by its level, others by their numbers."""
    with h5py.File(path, "w") as file:
        made = h5p.create(h5p.DATASET_CREATE)
        made.set_chunk((16, 50))
        for number, values in filters:
            made.set_filter(number, h5z.FLAG_OPTIONAL, tuple(values))
        space = h5s.create_simple(data.shape)
        h5d.create(file.id, b"d", h5t.py_create(data.dtype), space, made)
        file["d"][...] = data
    return path


def with_width(path: Path, width: int) -> Path:
    """Change the width that the shuffle filter was written with."""
    content = path.read_bytes()
    begin = content.index(b"shuffle\0") + 8
    assert content[begin : begin + 4] == struct.pack("<I", 8)
    path.write_bytes(content[:begin] + struct.pack("<I", width) + content[begin + 4 :])
    return path


@pytest.mark.parametrize("width", [0xFFFFFFFF, 1 << 31, 6400, 9, 7, 4, 1, 0])
@pytest.mark.parametrize("first", [True, False])
async def test_a_shuffle_of_another_width(tmp_path: Path, width: int, first: bool) -> None:
    filters = [(2, ()), (1, (3,))] if first else [(3, ()), (2, ())]
    path = with_width(pipeline(tmp_path / "w.h5", *filters), width)
    async with asyncload.Loader(executor="thread") as loader:
        with pytest.raises(asyncload.Corrupt, match="expected 8") as caught:
            await loader.load_weights(path)
    assert caught.value.tensor == "d"


PIPELINES = [
    [(1, (9,)), (1, (1,))],
    [(1, (9,)), (1, (1,)), (1, (6,)), (1, (9,))],
    [(2, ()), (1, (9,)), (1, (0,))],
    [(1, (0,)), (1, (0,)), (2, ())],
    [(3, ()), (1, (1,)), (3, ()), (1, (1,))],
    [(1, (4,)), (2, ()), (3, ()), (1, (0,))],
    [(32000, ()), (1, (9,))],
    [(1, (9,)), (32000, ())],
]


@pytest.mark.parametrize("filters", PIPELINES)
@pytest.mark.parametrize("kind", ["f8", ">f4", "i1"])
async def test_filters_in_any_order_and_number(
    tmp_path: Path, filters: list[tuple[int, tuple[int, ...]]], kind: str
) -> None:
    for data in ((DATA * 100).astype(kind), np.zeros((64, 50), kind)):
        path = pipeline(tmp_path / "w.h5", *filters, data=data)
        found = (await asyncload.load_weights(path))["d"]
        with h5py.File(path) as file:
            expected = file["d"][()]
        assert np.array_equal(found, expected)
        assert found.dtype == expected.dtype.newbyteorder("=")


@pytest.mark.parametrize("number", [4, 5, 6, 307])
async def test_filters_that_are_not_known_to_be_safe(tmp_path: Path, number: int) -> None:
    path = pipeline(tmp_path / "w.h5", (1, (9,)))
    content = path.read_bytes()
    begin = content.index(b"deflate\0") - 8
    path.write_bytes(content[:begin] + struct.pack("<H", number) + content[begin + 2 :])
    with pytest.raises(asyncload.Unsafe, match=f"filter {number}"):
        await asyncload.load_weights(path)


@pytest.mark.timeout(60)
async def test_elements_of_many_bytes_are_put_into_place_at_once(tmp_path: Path) -> None:
    data = np.zeros(2, f"V{1 << 26}")
    data.view("u1")[:: 1 << 16] = 7
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("d", data=data, chunks=(2,), shuffle=True, compression="gzip")
    async with asyncload.Loader(executor="thread") as loader:
        found = await loader.load_weights(tmp_path / "w.h5")
    assert found["d"].tobytes() == data.tobytes()
