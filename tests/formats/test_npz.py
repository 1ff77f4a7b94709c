"""npy and npz: equal to numpy.load, and refusing what numpy.load would have to unpickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncload.errors import AsyncloadError, Corrupt, FormatError, TooLarge, Unsafe
from asyncload.formats._npy import NoTensor, parse_header
from asyncload.manifest import Deflate, Reorder
from tests.contracts.format_contract import Arrays, FormatContract
from tests.formats.memory import BytesSource, index, index_files, load


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def headed(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Make a .npy file with any header."""
    text = header.encode("utf-8" if version[0] == 3 else "latin1") + b"\n"
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + data


def plain(shape: str, descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def npz(arrays: Mapping[str, Any], *, compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
        assert found[name].dtype == native.dtype
        assert found[name].shape == native.shape
        assert found[name].tobytes() == native.tobytes()


def several() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "raw": rng.random((4, 6)),
        "swapped": rng.random((3, 2)).astype(">f4"),
        "fortran": np.asfortranarray(rng.integers(0, 99, (5, 7))),
        "both": np.asfortranarray(rng.integers(0, 99, (2, 3, 4))).astype(">i2", order="F"),
        "scalar": np.array(2 + 3j),
        "none": np.zeros((3, 0)),
        "texts": np.array(["one", "three"]),
        "swapped texts": np.array(["one", "three"]).astype(">U5"),
        "times": np.array(["2024-02-29", "1970-01-01"], ">M8[D]"),
        "layers/dense/vars/0": rng.random(300).astype("float16"),
    }


class TestNpzContract(FormatContract):
    format_name = "npz"
    file_name = "w.npz"

    def make(self, path: Path) -> Arrays:
        np.savez(path, **several())  # type: ignore[arg-type]
        with np.load(path) as stock:
            return dict(stock)


class TestCompressedNpzContract(TestNpzContract):
    def make(self, path: Path) -> Arrays:
        np.savez_compressed(path, **several())  # type: ignore[arg-type]
        with np.load(path) as stock:
            return dict(stock)


class TestNpyContract(FormatContract):
    format_name = "npy"
    file_name = "weights.npy"

    def make(self, path: Path) -> Arrays:
        np.save(path, several()["both"])
        return {"weights": np.load(path)}


ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes(),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4, max_dims=4),
)


@settings(max_examples=150, deadline=None)
@given(ARRAYS, st.booleans(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_random_npy_files_equal_numpy(array: Any, fortran: bool, version: Any) -> None:
    buffer = io.BytesIO()
    array = np.asfortranarray(array) if fortran and array.ndim > 1 else array
    np.lib.format.write_array(buffer, array, version)
    expected = np.load(io.BytesIO(buffer.getvalue()))
    assert_equal(load({"w.npy": buffer.getvalue()}), {"w": expected})


MEMBER_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\:\0"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(MEMBER_NAMES.map("n_{}".format), ARRAYS, max_size=5),
    st.booleans(),
)
def test_random_npz_files_equal_numpy(arrays: Arrays, compress: bool) -> None:
    content = npz(arrays, compress=compress)
    with np.load(io.BytesIO(content)) as stock:
        assert_equal(load({"w.npz": content}), dict(stock))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_raises_errors_of_ours(data: st.DataObject) -> None:
    name, content = data.draw(st.sampled_from(sorted(DAMAGED.items())))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(AsyncloadError):
        index({name: bytes(damaged)})


DAMAGED = {
    "stored.npz": npz({"a": np.arange(5), "b": np.zeros((2, 2))}),
    "deflated.npz": npz({"a": np.arange(5), "b": np.zeros((2, 2))}, compress=True),
    "array.npy": npy(np.arange(6).reshape(2, 3)),
}


@settings(max_examples=150, deadline=None)
@given(st.text("{}()[]'\"descrfotan_ohp:, TFalu0123456789L<>|", max_size=80), st.integers(1, 3))
def test_random_headers_raise_errors_of_ours(header: str, version: int) -> None:
    with pytest.raises(AsyncloadError):
        index({"w.npy": headed(header, b"12345678", (version, 0))})


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_cut_header_says_how_much_it_needs(version: tuple[int, int]) -> None:
    content = headed(plain("(2,)"), bytes(8), version)
    for length in range(len(content)):
        found = parse_header(content[:length], len(content), "x", "w")
        assert not isinstance(found, NoTensor)
        if isinstance(found, int):
            assert length < found <= len(content) - 8
        else:
            assert (found.shape, found.length) == ((2,), len(content) - 8)
            assert length >= found.length


def test_stored_members_lie_where_the_entry_says() -> None:
    arrays = several()
    content = npz(arrays)
    entries = index({"w.npz": content}).tensors
    assert entries["raw"].encoding is None
    raw = entries["raw"]
    assert content[raw.offset : raw.offset + raw.length] == arrays["raw"].tobytes()
    assert entries["swapped"].encoding == Reorder("C", swap=True)
    assert entries["fortran"].encoding == Reorder("F", swap=False)
    assert entries["both"].encoding == Reorder("F", swap=True)


def test_deflated_members_skip_their_header() -> None:
    entry = index({"w.npz": npz({"fortran": several()["fortran"]}, compress=True)}).tensors[
        "fortran"
    ]
    assert isinstance(entry.encoding, Deflate)
    assert entry.encoding.skip == 128
    assert entry.encoding.decoded == 128 + entry.nbytes
    assert entry.encoding.order == "F"


def test_bfloat16_comes_as_numpy_has_it() -> None:
    array = np.arange(4).astype(ml_dtypes.bfloat16)
    found = load({"w.npy": npy(array)})["w"]
    assert found.dtype == np.dtype("V2")
    assert np.array_equal(found.view(ml_dtypes.bfloat16), array)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        '{"shape":(2,),"descr":"<f4","fortran_order":False,}   ',
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2L,), }",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_that_other_programs_write(header: str, version: int) -> None:
    found = load({"w.npy": headed(header, np.ones(2, "<f4").tobytes(), (version, 0))})["w"]
    assert np.array_equal(found, np.ones(2, "float32"))


def test_a_long_header_takes_a_second_read() -> None:
    header = plain("(2,)") + " " * 50_000
    content = headed(header, bytes(8), (2, 0))
    assert load({"w.npy": content})["w"].shape == (2,)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert load({"w.npz": zipped({"a.npy": content}, method)})["a"].shape == (2,)


async def test_many_members_take_few_reads() -> None:
    source = BytesSource({"w.npz": npz({f"n{i}": np.full(i % 9, i) for i in range(3000)})})
    manifest, _ = await index_files(source)
    assert len(manifest.tensors) == 3000
    assert len(source.readers[0].reads) < 30


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (npy(np.array([{}], object), allow_pickle=True), Unsafe, "Python objects"),
        (npy(np.zeros(2, "i4,f8")), FormatError, "records"),
        (headed(plain("(2,)", "('<f4', (2,))"), bytes(16)), FormatError, "records"),
        (headed(plain("(2,)", "'<V0'")), FormatError, "no bytes"),
        (headed(plain("(2,)", "'i4,f8'"), bytes(24)), Corrupt, "dtype 'i4,f8'"),
        (headed(plain("(2,)", "'<f3'"), bytes(6)), Corrupt, "header with"),
        (headed(plain("(2)"), bytes(8)), Corrupt, "a number for a shape"),
        (headed(plain("(-2,)"), bytes(8)), Corrupt, "unreadable"),
        (headed(plain("(,)"), bytes(8)), Corrupt, "a shape of"),
        (headed(plain("(3,)"), bytes(8)), Corrupt, "has 8 bytes of data.*takes 12"),
        (headed(plain("(1,)"), bytes(8)), Corrupt, "more than one array"),
        (headed(plain("(0, 9999999999999999999)")), Corrupt, "too large for any machine"),
        (headed(plain("(" + "1," * 65 + ")"), bytes(4)), Corrupt, "65 dimensions"),
        (headed(plain("()") + "x", bytes(4)), Corrupt, "unreadable"),
        (headed("{'descr': '<f4'}"), Corrupt, "expected descr, fortran_order and shape"),
        (headed("{'descr': 'f4', 'descr': 'f4'}"), Corrupt, "two fields"),
        (headed(plain("()", order="'x'"), bytes(4)), Corrupt, "other types"),
        (headed(plain("(2,)"), bytes(8), (4, 0)), FormatError, "version 4.0"),
        (headed(plain("(2,)") + " " * 70_000, bytes(8), (2, 0)), TooLarge, "header of 7"),
        (headed(plain("(2,)"))[:40], Corrupt, "truncated"),
        (b"\x93NUMPY", Corrupt, "no .npy file"),
        (b"", Corrupt, "it is empty"),
        (b"\x80\x04pickle..", Corrupt, "no .npy file"),
        (b"\x93NUMPY\x03\x00\x04\x00\x00\x00\xff\xff\xff\n", Corrupt, "header with"),
    ],
)
def test_arrays_that_are_refused(content: bytes, kind: type[FormatError], says: str) -> None:
    for files in (
        {"w.npy": content},
        {"w.npz": zipped({"w.npy": content})},
        {"w.npz": zipped({"w.npy": content}, zipfile.ZIP_DEFLATED)},
    ):
        with pytest.raises(kind, match=f"'w'.*{says}") as caught:
            index(files)
        assert type(caught.value) is kind


def test_another_compression_is_named() -> None:
    with pytest.raises(FormatError, match=r"'a\.npy' is compressed by method 14"):
        index({"w.npz": zipped({"a.npy": npy(np.zeros(3))}, zipfile.ZIP_LZMA)})


def test_a_stream_without_a_header_is_corrupt() -> None:
    content = bytearray(zipped({"a.npy": npy(np.zeros(3))}, zipfile.ZIP_DEFLATED))
    content[35 : 35 + 8] = b"\xff" * 8  # the first block of the stream, behind "a.npy"
    with pytest.raises(Corrupt, match="cannot be inflated"):
        index({"w.npz": bytes(content)})


def test_what_is_no_array_becomes_an_asset() -> None:
    content = zipped({"readme.txt": b"hello", "a.npy": npy(np.zeros(3))})
    manifest = index({"w.npz": content})
    entry = manifest.assets["readme.txt"]
    assert list(manifest.tensors) == ["a"]
    assert content[entry.offset : entry.offset + entry.length] == b"hello"
