"""What was never written to an HDF5 dataset is what h5py says of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5p, h5s, h5t

import asyncload

TIMES = {
    "at once": h5d.FILL_TIME_ALLOC,
    "never": h5d.FILL_TIME_NEVER,
    "if set": h5d.FILL_TIME_IFSET,
}
LAYOUTS = ("contiguous", "compact", "chunked", "gzip")


def properties(time: str, value: float | None, layout: str) -> h5p.PropDCID:
    made = h5p.create(h5p.DATASET_CREATE)
    made.set_fill_time(TIMES[time])
    if value is not None:
        made.set_fill_value(np.array(value, "f4"))
    if layout == "compact":
        made.set_layout(h5d.COMPACT)
    if layout in ("chunked", "gzip"):
        made.set_chunk((2,))
    if layout == "gzip":
        made.set_deflate(3)
    return made


def datasets() -> Iterator[tuple[str, h5p.PropDCID, int]]:
    for time, value, layout, written in itertools.product(
        TIMES, (None, 2.5, 0.0), LAYOUTS, (0, 1, 2, 4)
    ):
        yield f"{time} {value} {layout} {written}", properties(time, value, layout), written


async def test_fill_values_as_h5py_has_them(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        for name, made, written in datasets():
            h5d.create(file.id, name.encode(), h5t.IEEE_F32LE, h5s.create_simple((4,)), made)
            file[name][:written] = 1
    found = await asyncload.load_weights(path)
    expected: dict[str, npt.NDArray[np.float32]] = {}
    with h5py.File(path) as file:
        expected = {name: file[name][()] for name in file}
    assert len(expected) == 144
    wrong = [name for name, array in expected.items() if not np.array_equal(found[name], array)]
    assert wrong == []
