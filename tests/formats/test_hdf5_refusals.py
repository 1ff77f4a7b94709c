"""What an HDF5 file can do, and a file of weights must not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from asyncload.errors import AsyncloadError, Corrupt, FormatError, TooLarge, Unsafe

from .hdf5_files import index_file, read_file

NUMBERS = np.arange(12, dtype="f4").reshape(3, 4)


def refused(path: Path, kind: type[FormatError], words: str) -> AsyncloadError:
    """Return the error of this kind that the file raises within a second."""
    begin = time.perf_counter()
    with pytest.raises(kind, match=words) as caught:
        index_file(path)
    assert time.perf_counter() - begin < 1
    assert type(caught.value) is kind
    assert caught.value.uri == path.name
    return caught.value


# --- other files -------------------------------------------------------------------------


@pytest.mark.parametrize("link", [h5py.SoftLink("/a"), h5py.ExternalLink("secret.h5", "/a")])
@pytest.mark.parametrize("name", ["link", "layers/dense/vars/0"])
def test_links(tmp_path: Path, name: str, link: Any) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["a"] = NUMBERS
        file[name] = link
    kind = type(link).__name__.removesuffix("Link").lower()
    refused(tmp_path / "f", Unsafe, f"{name}.*{kind}")


def test_external_storage(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset("d", (3, 4), "f4", external=[(str(tmp_path / "secret"), 0, 48)])
    assert refused(tmp_path / "f", Unsafe, "another file").tensor == "d"


@pytest.mark.parametrize("userblock", [0, 512])
def test_virtual_datasets(tmp_path: Path, userblock: int) -> None:
    with h5py.File(tmp_path / "f", "w", libver="latest", userblock_size=userblock) as file:
        layout = h5py.VirtualLayout((3, 4), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "a", (3, 4))
        file.create_virtual_dataset("d", layout)
    assert refused(tmp_path / "f", Unsafe, "virtual").tensor == "d"


# --- filters and types -------------------------------------------------------------------


@pytest.mark.parametrize(("number", "options"), [(6, (2, 0)), (5, ()), (32001, (2, 2, 4, 48))])
def test_other_filters(tmp_path: Path, number: int, options: tuple[int, ...]) -> None:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk((3, 4))
    with h5py.File(tmp_path / "f", "w") as file:
        if number == 6:
            file.create_dataset("d", data=NUMBERS.astype("i4"), chunks=(3, 4), scaleoffset=0)
        else:
            plist.set_filter(number, 1, options)  # optional: it is skipped where it is missing
            space = h5s.create_simple((3, 4))
            dataset = h5d.create(file.id, b"d", h5t.IEEE_F32LE, space, dcpl=plist)
            dataset.write(h5s.ALL, h5s.ALL, NUMBERS)
    assert refused(tmp_path / "f", Unsafe, f"filter {number}").tensor == "d"


@pytest.mark.parametrize(
    ("words", "data", "dtype"),
    [
        ("text", "hello", None),
        ("text", np.array([b"ab", b"c"]), None),
        ("varying", [np.arange(2), np.arange(3)], h5py.vlen_dtype("i4")),
        ("records", np.zeros(2, [("a", "f4"), ("b", "i4")]), None),
        ("arrays", np.zeros(2, "(3,)f4"), np.dtype("(3,)f4")),
        ("8 bytes", np.array([1], "M8[s]").astype(h5py.opaque_dtype("M8[s]")), None),
    ],
)
def test_elements_that_are_no_numbers(tmp_path: Path, words: str, data: Any, dtype: Any) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        if words == "arrays":
            file.create_dataset("a/b", (2,), dtype)
        else:
            file.create_dataset("a/b", data=np.array(data, object) if dtype else data, dtype=dtype)
    assert refused(tmp_path / "f", FormatError, words).tensor == "a/b"


def test_references(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["r"] = file.ref
    refused(tmp_path / "f", FormatError, "references")


def test_numbers_that_no_dtype_equals(tmp_path: Path) -> None:
    kind = h5t.STD_I32LE.copy()
    kind.set_precision(20)
    with h5py.File(tmp_path / "f", "w") as file:
        h5d.create(file.id, b"d", kind, h5s.create_simple((3,)))
    refused(tmp_path / "f", FormatError, "unknown to NumPy")


@pytest.mark.parametrize("named", ["float64", "object", "nonsense", "V2", ""])
def test_opaque_elements_by_a_wrong_name(tmp_path: Path, named: str) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset("d", data=np.zeros(3, "V2")).attrs["dtype"] = named
    refused(tmp_path / "f", FormatError, "attribute 'dtype'")


def test_a_dataset_without_a_shape(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["d"] = h5py.Empty("f4")
    refused(tmp_path / "f", FormatError, "no shape")


# --- bombs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((1 << 40,), None),
        ((1 << 20, 1 << 20), None),
        ((1 << 20, 1 << 20), True),
        ((1 << 31, 1 << 31), True),
        ((1 << 31, 1 << 31, 0), None),
    ],
)
def test_shapes_of_which_nothing_is_stored(
    tmp_path: Path, shape: tuple[int, ...], chunks: bool | None
) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset("d", shape, "f8", chunks=chunks)
    assert refused(tmp_path / "f", TooLarge, "declare").tensor == "d"


def test_many_shapes_that_are_modest_one_by_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        for index in range(40):
            file.create_dataset(f"d{index}", (1 << 19,), "f4")
    refused(tmp_path / "f", TooLarge, "bomb")


def test_one_dataset_by_so_many_names_that_memory_would_not_do(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["d"] = np.zeros(10_000)
        for index in range(1000):
            file[f"d{index}"] = file["d"]
    refused(tmp_path / "f", TooLarge, "bomb")


def test_zeros_compressed_beyond_what_weights_can_be(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = file.create_dataset(
            "d", (1 << 27,), "u1", chunks=(1 << 20,), compression="gzip", compression_opts=9
        )
        dataset[:] = 0
    refused(tmp_path / "f", TooLarge, "bomb")


def test_chunks_far_larger_than_their_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset(
            "d", (10, 1), "f4", chunks=(1, 1 << 25), maxshape=(None, None), compression="gzip"
        )
        file["d"].id.write_direct_chunk((0, 0), b"x" * 100)
    refused(tmp_path / "f", TooLarge, "bomb")


# --- loops -------------------------------------------------------------------------------


def test_a_group_in_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        group = file.create_group("a/b")
        group["loop"] = file["a"]
    refused(tmp_path / "f", Unsafe, "a/b/loop.*tree")


def test_a_group_of_two_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["a/x"] = NUMBERS
        file["b"] = file["a"]
    refused(tmp_path / "f", Unsafe, "tree")


def test_a_loop_that_denies_it(tmp_path: Path) -> None:
    """The header of the group says that there is one link to it."""
    with h5py.File(tmp_path / "f", "w", libver="earliest") as file:
        group = file.create_group("a")
        group["loop"] = group
        address = h5py.h5o.get_info(group.id).addr
    content = bytearray((tmp_path / "f").read_bytes())
    assert content[address + 4] == 2  # version 1, after it and a zero the number of messages
    content[address + 4] = 1
    (tmp_path / "f").write_bytes(content)
    refused(tmp_path / "f", Unsafe, "a/loop.*tree")


# --- damage ------------------------------------------------------------------------------


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("tenths", range(10))
def test_truncated_files(tmp_path: Path, libver: str, tenths: int) -> None:
    with h5py.File(tmp_path / "f", "w", libver=libver) as file:
        for index in range(20):
            file[f"layers/{index}/vars/0"] = NUMBERS
        file.create_dataset("d", data=np.arange(1000), chunks=(64,), compression="gzip")
    whole = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(whole[: len(whole) * tenths // 10])
    refused(tmp_path / "f", Corrupt, "HDF5")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        space = h5s.create_simple((3,))
        h5d.create(file.id, b"\xff\xfe", h5t.IEEE_F32LE, space)
    refused(tmp_path / "f", Corrupt, "UTF-8")


def damaged(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def test_data_beyond_the_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = file.create_dataset("d", data=NUMBERS)
        offset = dataset.id.get_offset()
    address = offset.to_bytes(8, "little") + NUMBERS.nbytes.to_bytes(8, "little")
    size = (tmp_path / "f").stat().st_size
    damaged(tmp_path / "f", address, (size - 8).to_bytes(8, "little") + address[8:])
    with pytest.raises(Corrupt):
        read_file(tmp_path / "f")


def test_chunks_out_of_place(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset("d", data=np.arange(64, dtype="u1"), chunks=(16,), fletcher32=True)
    # The key of a chunk: its stored size, the skipped filters, its origin, and a zero.
    key = b"\x14\0\0\0" + bytes(4) + (32).to_bytes(8, "little") + bytes(8)
    damaged(tmp_path / "f", key, key.replace(b" ", b"\x10"))
    refused(tmp_path / "f", Corrupt, "twice or out of place")
