"""Checksums and strings of TensorFlow's files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncload.codecs import (
    _crc32c,
    crc32c,
    decode,
    decode_strings,
    joined_crc32c,
    put_together,
    unmasked,
)
from asyncload.errors import Corrupt, DecodeError
from asyncload.manifest import Part, Partitioned, Strings, TensorEntry
from tests.formats.tables import masked, varint


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_checksums_of_two_stretches_join(first: bytes, second: bytes) -> None:
    whole = google_crc32c.value(first + second)
    assert joined_crc32c(crc32c(first), crc32c(second), len(second)) == whole
    assert crc32c(second, crc32c(first)) == whole
    assert unmasked(masked(first)) == crc32c(memoryview(first))


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("nbytes", [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 3 << 20])
def test_checksums_of_much(nbytes: int, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shown:  # the library, by the wheel
        monkeypatch.setattr(_crc32c, "_extend", None)
    content = np.random.default_rng(nbytes).bytes(nbytes)
    assert crc32c(memoryview(bytearray(content))) == google_crc32c.value(content)
    half = nbytes // 3
    parts = crc32c(content[:half]), crc32c(content[half:])
    assert joined_crc32c(*parts, nbytes - half) == google_crc32c.value(content)


@pytest.mark.skipif(_crc32c._extend is None, reason="this wheel does not show its library")
def test_checksums_of_much_let_other_threads_run() -> None:
    content = memoryview(bytearray(512 << 20))
    crc32c(content)  # makes its pages
    turns: list[float] = []
    done = threading.Event()

    def take_turns() -> None:
        while not done.is_set():
            turns.append(time.perf_counter())
            time.sleep(0.0005)

    other = threading.Thread(target=take_turns)
    other.start()
    begin = time.perf_counter()
    crc32c(content)
    end = time.perf_counter()
    done.set()
    other.join()
    # With the GIL kept, it had one turn at most, whatever else the machine does.
    assert sum(begin < turn < end for turn in turns) > 5


def test_the_check_value_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def stored(strings: list[bytes]) -> tuple[TensorEntry, bytes]:
    """Return what TensorFlow writes, by its own description."""
    summed = b"".join(len(each).to_bytes(4, "little") for each in strings)
    checksum = masked(summed).to_bytes(4, "little")
    content = b"".join(map(varint, map(len, strings))) + checksum + b"".join(strings)
    whole = google_crc32c.value(summed + checksum + b"".join(strings))
    shape = (len(strings),)
    return TensorEntry("t", "object", shape, 0, 0, len(content), Strings(), whole), content


STRINGS = st.lists(st.binary(max_size=20) | st.integers(100, 40_000).map(bytes), max_size=20)


@given(STRINGS)
def test_strings_decode(strings: list[bytes]) -> None:
    entry, content = stored(strings)
    array = decode_strings(entry, memoryview(content))
    assert array.tolist() == strings
    assert (array.dtype, array.shape) == (np.dtype(object), (len(strings),))
    assert not array.flags.writeable


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STRINGS)
def test_that_is_what_tensorflow_writes(tmp_path: Path, strings: list[bytes]) -> None:
    value = tf.constant(strings, tf.string, [len(strings)])
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "c"), tensor_names=["t"], shape_and_slices=[""], tensors=[value]
    )
    written = (tmp_path / "c.data-00000-of-00001").read_bytes()
    assert written == stored(strings)[1]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.data())
def test_a_wrong_bit_is_noticed(strings: list[bytes], data: st.DataObject) -> None:
    entry, content = stored(strings)
    wrong = bytearray(content)
    at = data.draw(st.integers(0, len(content) - 1))
    wrong[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Corrupt) as caught:
        decode_strings(entry, memoryview(wrong))
    assert caught.value.tensor == "t"


@given(st.integers(0, 9), st.binary(max_size=60), st.booleans())
def test_any_bytes_are_strings_or_corrupt(count: int, content: bytes, verify: bool) -> None:
    entry = TensorEntry("t", "object", (count,), 0, 0, len(content), Strings())
    try:
        found = decode_strings(entry, memoryview(content), verify)
    except Corrupt:
        return
    assert sum(map(len, found.tolist())) <= len(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 strings"),
        (b"\x80" * 12, "0 strings"),
        (b"\xff" * 9 + b"\x01" + bytes(4), "longer than any file"),
        (b"\x05" + bytes(4) + b"abcd", "5 bytes in all, but 4"),
        (b"\x03" + bytes(4) + b"abcd", "3 bytes in all, but 4"),
        (b"\x00" + bytes(3), "but 0 are"),
    ],
)
def test_strings_that_are_none(content: bytes, says: str) -> None:
    entry = TensorEntry("t", "object", (1,), 0, 0, len(content), Strings())
    with pytest.raises(Corrupt, match=says):
        decode_strings(entry, memoryview(content), verify=False)


def test_what_has_a_function_of_its_own() -> None:
    entry, content = stored([b"a"])
    with pytest.raises(DecodeError, match="its own"):
        decode(entry, [memoryview(content)], memoryview(bytearray(8)))
    with pytest.raises(DecodeError, match="parts"):
        put_together(entry, [], memoryview(bytearray(8)))


def test_parts_go_where_they_belong() -> None:
    whole = np.arange(12, dtype=np.complex64).reshape(3, 4)
    left, right = whole[:, :3], whole[:, 3:]
    parts = (
        Part((0, 3), (3, 1), 0, 0, right.nbytes),
        Part((0, 0), (0, 4), 0, 0, 0),
        Part((0, 0), (3, 3), 1, 0, left.nbytes),
    )
    entry = TensorEntry("t", "complex64", (3, 4), 0, 0, whole.nbytes, Partitioned(parts))
    out = bytearray(whole.nbytes)
    put_together(entry, [memoryview(part.tobytes()) for part in (right, left)], memoryview(out))
    assert bytes(out) == whole.tobytes()
