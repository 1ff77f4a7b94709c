"""Every encoding decodes to the array that it encoded, and damage is noticed."""

from __future__ import annotations

import zlib
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncload.codecs import _inflate, decode, fill
from asyncload.errors import Corrupt, DecodeError
from asyncload.manifest import (
    Chunk,
    Chunked,
    Deflate,
    Encoding,
    Inline,
    Reorder,
    TensorEntry,
    numpy_dtype,
)

Array = npt.NDArray[Any]

DTYPES = ["bool", "int8", "uint16", "float16", "float32", "float64", "complex64", "complex128"]
DTYPES += ["bfloat16", "float8_e4m3fn"]


def entry(array: Array, stored: int, encoding: Encoding | None) -> TensorEntry:
    return TensorEntry("a/b", array.dtype.name, array.shape, 0, 100, stored, encoding)


def decoded(what: TensorEntry, *stored: bytes) -> Array:
    out = bytearray(what.nbytes)
    fill(what, memoryview(out))
    decode(what, [memoryview(piece) for piece in stored], memoryview(out))
    return np.frombuffer(out, numpy_dtype(what.dtype)).reshape(what.shape)


def same(found: Array, expected: Array) -> bool:
    return (found.dtype, found.shape, found.tobytes()) == (
        expected.dtype,
        expected.shape,
        expected.tobytes(),
    )


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = numpy_dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    size = int(np.prod(shape)) * dtype.itemsize
    content = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, size, "u1")
    return content.view(dtype).reshape(shape) if size else np.zeros(shape, dtype)


def swapped(array: Array) -> bytes:
    """Return the bytes in the other byte order, which ml_dtypes' arrays do not know."""
    unit = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    return np.frombuffer(array.tobytes(), "u1").reshape(-1, unit)[:, ::-1].tobytes()


def raw_deflate(content: bytes, level: int = 6) -> bytes:
    encoder = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return encoder.compress(content) + encoder.flush()


# --- whole streams -----------------------------------------------------------------------


def test_raw_bytes_are_copied() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert same(decoded(entry(array, array.nbytes, None), array.tobytes()), array)


@given(arrays(), st.booleans(), st.sampled_from("CF"))
def test_other_orders(array: Array, swap: bool, order: Any) -> None:
    stored = np.asfortranarray(array).T if order == "F" else array
    content = swapped(stored) if swap else stored.tobytes()
    assert same(decoded(entry(array, len(content), Reorder(order, swap)), content), array)


@given(arrays(), st.booleans(), st.sampled_from("CF"), st.integers(0, 200), st.integers(0, 9))
def test_deflate(array: Array, swap: bool, order: Any, skip: int, level: int) -> None:
    stored = np.asfortranarray(array).T if order == "F" else array
    content = b"h" * skip + (swapped(stored) if swap else stored.tobytes())
    packed = raw_deflate(content, level)
    encoding = Deflate(skip, len(content), zlib.crc32(content), order, swap)
    assert same(decoded(entry(array, len(packed), encoding), packed), array)


@pytest.mark.parametrize("content", [bytes(3 << 20), np.random.default_rng(0).bytes(3 << 20)])
def test_deflate_of_many_steps(content: bytes) -> None:
    array = np.frombuffer(content, "u1")
    packed = raw_deflate(content)
    encoding = Deflate(0, len(content), zlib.crc32(content))
    assert same(decoded(entry(array, len(packed), encoding), packed), array)


def test_inline() -> None:
    array = np.arange(6, dtype="i2")
    assert same(decoded(entry(array, 0, Inline(array.tobytes()))), array)
    with pytest.raises(Corrupt, match=r"a/b.*3 bytes in the index"):
        decoded(entry(array, 0, Inline(b"abc")))


# --- damage to streams -------------------------------------------------------------------

PLAIN = np.arange(1000, dtype="f4")
PACKED = raw_deflate(PLAIN.tobytes())


def inflated(packed: bytes, **changes: Any) -> Array:
    content = PLAIN.tobytes()
    values = {"skip": 0, "decoded": len(content), "crc32": zlib.crc32(content), **changes}
    return decoded(entry(PLAIN, len(packed), Deflate(**values)), packed)


@pytest.mark.parametrize("tenths", range(10))
def test_streams_cut_off(tenths: int) -> None:
    with pytest.raises(Corrupt) as caught:
        inflated(PACKED[: len(PACKED) * tenths // 10])
    assert caught.value.tensor == "a/b"


def test_streams_that_hold_more() -> None:
    packed = raw_deflate(PLAIN.tobytes() + b"x")
    with pytest.raises(Corrupt, match="more bytes; expected 4000"):
        inflated(packed)


def test_a_bomb_is_inflated_no_further_than_declared() -> None:
    packed = raw_deflate(bytes(64 << 20))
    with pytest.raises(Corrupt, match="more bytes; expected 4000"):
        inflated(packed)


def test_streams_that_are_none() -> None:
    with pytest.raises(Corrupt, match="damaged"):
        inflated(b"\xff" * 50)


def test_wrong_checksums() -> None:
    with pytest.raises(Corrupt, match="checksum"):
        inflated(PACKED, crc32=1)
    assert same(inflated(PACKED, crc32=None), PLAIN)


def test_a_stream_of_another_length_than_the_array() -> None:
    with pytest.raises(Corrupt, match="4096 bytes for its array; expected 4000"):
        inflated(PACKED, decoded=4096)


def test_stretches_that_are_not_the_entry_s() -> None:
    with pytest.raises(DecodeError, match="a/b"):
        decode(entry(PLAIN, 4000, None), [memoryview(bytes(10))], memoryview(bytearray(4000)))
    with pytest.raises(DecodeError, match="a/b"):
        decode(entry(PLAIN, 4000, None), [memoryview(bytes(4000))], memoryview(bytearray(10)))


# --- chunks ------------------------------------------------------------------------------


def chunked(array: Array, **options: Any) -> tuple[TensorEntry, list[bytes]]:
    """Return the entry and the chunks that h5py makes of an array."""
    with h5py.File("chunks", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("d", data=array, **options)
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(index) for index in range(plist.get_nfilters())]
        chunks, stored = [], []
        for index in range(dataset.id.get_num_chunks()):
            info = dataset.id.get_chunk_info(index)
            mask, content = dataset.id.read_direct_chunk(info.chunk_offset)
            chunks.append(Chunk(info.chunk_offset, info.byte_offset, info.size, mask))
            stored.append(content)
        encoding = Chunked(
            dataset.chunks,
            tuple((number, tuple(values)) for number, _, values, _ in filters),
            tuple(chunks),
            swap=not array.dtype.isnative,
        )
    return entry(array, sum(map(len, stored)), encoding), stored


@st.composite
def chunkings(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    dtype = draw(st.sampled_from(["u1", "<f4", ">f4", "<f8", "<i2", ">c8", "<c16"]))
    shape = draw(hnp.array_shapes(max_dims=4, max_side=9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    options = {
        "chunks": tuple(draw(st.integers(1, size)) for size in shape),
        "shuffle": draw(st.booleans()),
        "fletcher32": draw(st.booleans()),
        "compression": draw(st.sampled_from([None, "gzip", "lzf"])),
    }
    return rng.integers(0, draw(st.sampled_from([2, 120])), shape).astype(dtype), options


@settings(deadline=None)
@given(chunkings())
def test_chunks_as_h5py_writes_them(made: tuple[Array, dict[str, Any]]) -> None:
    array, options = made
    what, stored = chunked(array, **options)
    assert same(decoded(what, *stored), array.astype(array.dtype.newbyteorder("=")))


def test_some_chunks_write_only_what_they_cover() -> None:
    array = np.arange(40, dtype="f4").reshape(8, 5)
    what, stored = chunked(array, chunks=(3, 2), compression="gzip", shuffle=True)
    assert isinstance(what.encoding, Chunked)
    picked = [1, 4, 8]
    some = Chunked(
        what.encoding.chunk,
        what.encoding.filters,
        tuple(what.encoding.chunks[index] for index in picked),
        fill=np.float32(-1).tobytes(),
    )
    part = TensorEntry("p", "float32", (8, 5), 0, 0, 0, some)
    expected = np.full((8, 5), -1, "f4")
    for index in picked:
        row, column = what.encoding.chunks[index].origin
        region = np.s_[row : row + 3, column : column + 2]
        expected[region] = array[region]
    assert same(decoded(part, *[stored[index] for index in picked]), expected)


@pytest.mark.parametrize("value", [b"", np.float32(2.5).tobytes()])
def test_fill_values(value: bytes) -> None:
    what = TensorEntry("p", "float32", (3, 4), 0, 0, 0, Chunked((2, 2), (), (), fill=value))
    out = bytearray(b"x" * 48)
    fill(what, memoryview(out))
    assert np.frombuffer(out, "f4").tolist() == [2.5 if value else 0.0] * 12


def test_the_fill_value_of_bfloat16() -> None:
    value = np.array(1.5, ml_dtypes.bfloat16)
    encoding = Chunked((2,), (), (), fill=value.tobytes())
    found = decoded(TensorEntry("p", "bfloat16", (5,), 0, 0, 0, encoding))
    assert found.tolist() == [1.5] * 5


# --- damage to chunks --------------------------------------------------------------------

COMPRESSIONS = ["gzip", "lzf"]


def one_chunk(stored: bytes, *filters: tuple[int, tuple[int, ...]], mask: int = 0) -> Array:
    chunk = Chunk((0,), 100, len(stored), mask)
    encoding = Chunked((1000,), filters, (chunk,))
    return decoded(entry(PLAIN, len(stored), encoding), stored)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("tenths", range(10))
def test_chunks_cut_off(compression: str, tenths: int) -> None:
    what, (stored,) = chunked(PLAIN, chunks=(1000,), compression=compression, shuffle=True)
    assert isinstance(what.encoding, Chunked)
    with pytest.raises(Corrupt) as caught:
        one_chunk(stored[: len(stored) * tenths // 10], *what.encoding.filters)
    assert caught.value.tensor == "a/b"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damaged_chunks_are_noticed_or_harmless(compression: str) -> None:
    what, (stored,) = chunked(PLAIN, chunks=(1000,), compression=compression, shuffle=True)
    assert isinstance(what.encoding, Chunked)
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(200):
        damaged = bytearray(stored)
        damaged[rng.integers(len(stored))] = rng.integers(256)
        try:
            one_chunk(bytes(damaged), *what.encoding.filters)
        except Corrupt:
            noticed += 1
    assert noticed > (190 if compression == "gzip" else 0)


def test_a_chunk_bomb_is_inflated_no_further_than_the_chunk() -> None:
    with pytest.raises(Corrupt, match="exceed the 4000 bytes"):
        one_chunk(zlib.compress(bytes(64 << 20)), (1, (6,)))


def test_chunks_of_another_length() -> None:
    with pytest.raises(Corrupt, match="chunk of 3996 bytes at"):
        one_chunk(PLAIN.tobytes()[:-4])
    with pytest.raises(Corrupt, match="too few for its checksum"):
        one_chunk(b"abc", (3, ()))
    with pytest.raises(Corrupt, match="end early"):
        one_chunk(zlib.compress(PLAIN.tobytes())[:-1], (1, (6,)))


def test_one_bit_is_enough_for_fletcher() -> None:
    what, (stored,) = chunked(PLAIN, chunks=(1000,), fletcher32=True)
    assert isinstance(what.encoding, Chunked)
    assert same(one_chunk(stored, *what.encoding.filters), PLAIN)
    for place in (0, 1, 1999, 3999, 4000, 4003):
        damaged = bytearray(stored)
        damaged[place] ^= 4
        with pytest.raises(Corrupt, match="checksum"):
            one_chunk(bytes(damaged), *what.encoding.filters)


def test_fletcher_as_old_versions_wrote_it() -> None:
    what, (stored,) = chunked(PLAIN, chunks=(1000,), fletcher32=True)
    assert isinstance(what.encoding, Chunked)
    low, high, third, top = stored[-4:]
    old = stored[:-4] + bytes([high, low, top, third])
    assert same(one_chunk(old, *what.encoding.filters), PLAIN)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 65535, (1 << 21) + 6, (1 << 21) + 7])
def test_fletcher_of_any_length(size: int) -> None:
    for content in (np.random.default_rng(size).bytes(size), b"\xff" * size, bytes(size)):
        if not size:
            continue
        array = np.frombuffer(content, "u1")
        what, stored = chunked(array, chunks=(size,), fletcher32=True)
        assert same(decoded(what, *stored), array)


def test_skipped_filters() -> None:
    plain = PLAIN.tobytes()
    filters = ((2, (4,)), (1, (6,)), (3, ()))
    assert same(one_chunk(plain, *filters, mask=0b111), PLAIN)
    assert same(one_chunk(zlib.compress(plain), *filters, mask=0b101), PLAIN)


def test_shuffles() -> None:
    stored = np.frombuffer(PLAIN.tobytes(), "u1").reshape(-1, 4).T.tobytes()
    assert same(one_chunk(stored, (2, (4,))), PLAIN)
    # Not the first filter: something was done to the bytes before they were shuffled.
    assert same(one_chunk(stored, (1, (6,)), (2, (4,)), mask=0b01), PLAIN)


@pytest.mark.parametrize("values", [(), (0,), (4, 4), (1,), (8,), (7,), (5000,), (0xFFFFFFFF,)])
def test_shuffles_of_another_width(values: tuple[int, ...]) -> None:
    for filters in ([(2, values)], [(1, (6,)), (2, values)]):
        with pytest.raises(Corrupt, match="shuffle filter"):
            one_chunk(PLAIN.tobytes(), *filters)


def test_unknown_filters() -> None:
    with pytest.raises(DecodeError, match="32001"):
        one_chunk(PLAIN.tobytes(), (32001, ()))


def test_zlib_does_where_there_is_no_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inflate, "fastest", zlib)
    assert same(inflated(PACKED), PLAIN)
    assert same(one_chunk(zlib.compress(PLAIN.tobytes()), (1, (6,))), PLAIN)
    for cut in (1, 5, 500):
        with pytest.raises(Corrupt):
            inflated(PACKED[:-cut])
        with pytest.raises(Corrupt):
            one_chunk(zlib.compress(PLAIN.tobytes())[:-cut], (1, (6,)))
    with pytest.raises(Corrupt, match="damaged"):
        inflated(b"\xff" * 50)
    with pytest.raises(Corrupt, match="exceed"):
        one_chunk(zlib.compress(bytes(1 << 20)), (1, (6,)))
