"""Texts and records beside tensors are left out, and the manifest says so."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import asyncload

pytestmark = pytest.mark.either_loop

RECORDS = np.zeros(3, [("a", "i4"), ("b", "f8")])


def write(path: Path, *, beside: bool) -> dict[str, str]:
    """Write what makes no tensor; return its names, and a word of the reason for each."""
    with h5py.File(path, "w") as file:
        if beside:
            file["layers/dense/vars/0"] = np.arange(6.0).reshape(2, 3)
        file["layers/words"] = ["a", "b"]
        file["layers/fixed"] = np.array([b"a", b"b"])
        file["records"] = RECORDS
        file["nothing"] = h5py.Empty("f4")
        file["reference"] = file["layers"].ref
        file.create_dataset("ragged", (2,), h5py.vlen_dtype("i4"))
    return {
        "layers/words": "text",
        "layers/fixed": "text",
        "records": "records of several fields",
        "nothing": "no shape",
        "reference": "references",
        "ragged": "varying length",
    }


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5"])
async def test_hdf5(tmp_path: Path, name: str) -> None:
    words = write(tmp_path / name, beside=True)
    found = await asyncload.load_weights(tmp_path / name)
    assert list(found) == ["layers/dense/vars/0"]
    left_out = found.manifest.left_out
    assert set(left_out) == set(words)
    assert all(word in left_out[key] for key, word in words.items())
    with pytest.raises(KeyError, match=r"left out.*records of several fields"):
        found["records"]
    assert asyncload.Manifest.from_json(found.manifest.to_json()) == found.manifest


async def test_hdf5_of_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "w.h5", beside=False)
    with pytest.raises(asyncload.FormatError, match=r"expected numbers or booleans|no shape"):
        await asyncload.load_weights(tmp_path / "w.h5")


async def test_weights_that_a_legacy_model_names_are_not_left_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["dense"]
        file["dense/kernel:0"] = np.zeros(2)
        file["dense/words:0"] = ["a"]
        file["dense"].attrs["weight_names"] = ["kernel:0", "words:0"]
    with pytest.raises(asyncload.FormatError, match=r"'dense/words:0'.*text"):
        await asyncload.load_weights(tmp_path / "w.h5")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
async def test_npz(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    save(tmp_path / "w.npz", a=np.ones(2), r=RECORDS, o=np.array([{}, None], object))
    found = await asyncload.load_weights(tmp_path / "w.npz")
    assert list(found) == ["a"]
    assert "records" in found.manifest.left_out["r"]
    assert "pickled" in found.manifest.left_out["o"]
    save(tmp_path / "o.npz", o=np.array([{}, None], object))
    with pytest.raises(asyncload.Unsafe, match="pickled"):
        await asyncload.load_weights(tmp_path / "o.npz")
