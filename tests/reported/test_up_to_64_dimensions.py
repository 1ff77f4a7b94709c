"""Arrays have as many dimensions as NumPy gives them: 64 with NumPy 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import asyncload

pytestmark = pytest.mark.either_loop

MOST = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


@pytest.mark.parametrize("dimensions", [31, 32, 33, 40, 63, 64])
async def test_as_many_as_numpy_has(tmp_path: Path, dimensions: int) -> None:
    if dimensions > MOST:
        pytest.skip("NumPy 1")
    array = np.arange(4.0).reshape((1,) * (dimensions - 2) + (2, 2))
    fortran = np.asfortranarray(array)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "s.npz", a=array, b=fortran, c=array.astype(">f4"))
    np.savez_compressed(tmp_path / "d.npz", a=array, b=fortran, c=array.astype(">f4"))
    save_file({"a": array}, tmp_path / "a.safetensors")
    for name in ("a.npy", "s.npz", "d.npz", "a.safetensors"):
        for found in (await asyncload.load_weights(tmp_path / name)).values():
            assert found.shape == array.shape
            assert np.array_equal(found, array)


async def test_more_than_numpy_has(tmp_path: Path) -> None:
    header = {"a": {"dtype": "U8", "shape": [1] * (MOST + 1), "data_offsets": [0, 1]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
    with pytest.raises(asyncload.Corrupt, match=f"at most {MOST} are possible"):
        await asyncload.load_weights(tmp_path / "a.safetensors")
