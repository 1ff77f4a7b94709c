"""Which format a file is: its name decides, and its first bytes where the name says nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asyncload.errors import UnknownFormat
from asyncload.formats import FOLDERS, FORMATS, PREFIXES, detect, detect_folder

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(8)
ZIP = b"PK\x03\x04" + bytes(12)
NPY = b"\x93NUMPY\x01\x00v\x00{'desc"
SAFETENSORS = (60).to_bytes(8, "little") + b'{"a":{"d'


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("m.keras", ZIP, "keras"),
        ("M.KERAS", b"", "keras"),
        ("m.keras", b"not a zip", "keras"),
        ("m", ZIP, "keras"),
        ("m.weights.h5", HDF5, "keras-weights"),
        ("ckpt-12.index", b"", "checkpoint"),
        ("m.weights.h5", b"", "keras-weights"),
        ("m.weights.json", b"{", "keras-sharded"),
        ("m.h5", HDF5, "keras-h5"),
        ("m.hdf5", b"", "keras-h5"),
        ("m", HDF5, "keras-h5"),
        ("w.safetensors", b"", "safetensors"),
        ("w.bin", SAFETENSORS, "safetensors"),
        ("model.safetensors.index.json", b'{"weight_map', "safetensors-index"),
        ("w.npz", ZIP, "npz"),
        ("w.npy", b"", "npy"),
        ("w", NPY, "npy"),
    ],
)
def test_a_format_is_told_by_name_then_by_content(name: str, head: bytes, expected: str) -> None:
    assert detect(name, head, uri="x").name == expected


@pytest.mark.parametrize(
    ("head", "found"),
    [(b"", "is empty"), (b"hello", "begins with b'hello'"), (bytes(16), "begins")],
)
def test_an_unknown_file_says_what_is_known(head: bytes, found: str) -> None:
    with pytest.raises(UnknownFormat, match=f"memory://w.dat.*{found}") as caught:
        detect("w.dat", head, uri="memory://w.dat")
    for each in FORMATS:
        assert each.name in str(caught.value)


def test_names_of_formats_are_unique() -> None:
    assert len({each.name for each in FORMATS}) == len(FORMATS)


def test_formats_are_cheap_to_import() -> None:
    check = (
        "import sys, asyncload.formats; "
        "print(sorted({'h5py', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_folder_is_told_by_a_file_in_it() -> None:
    member, found = detect_folder(["a", "checkpoint", "ckpt-1.index"], uri="x")
    assert (member, found.name) == ("checkpoint", "checkpoint")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "such as model.keras"),
        (["model.keras"], r"has no file 'saved_model\.pb' .* or 'checkpoint' \(checkpoint\)"),
        (["b.index", "a.index", "c.index", "d.index"], "such as a, b, c\\."),
    ],
)
def test_other_folders_are_told_what_was_looked_for(names: list[str], says: str) -> None:
    with pytest.raises(UnknownFormat, match=says):
        detect_folder(names, uri="some/folder")


def test_every_folder_and_prefix_is_of_a_known_format() -> None:
    assert {each for _, each in (*FOLDERS, *PREFIXES)} <= set(FORMATS)
