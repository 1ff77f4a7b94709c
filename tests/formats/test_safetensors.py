"""safetensors: equal to the reference reader, and strict about what the header says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load as stock_load
from safetensors.numpy import save as stock_save

from asyncload.errors import AsyncloadError, Corrupt, FormatError, TooLarge
from asyncload.manifest import numpy_dtype
from tests.contracts.format_contract import Arrays, FormatContract
from tests.formats.memory import index, load

NAME = "w.safetensors"


def craft(header: Any, data: bytes = b"", *, length: int | None = None) -> dict[str, bytes]:
    """Make a file of any header, valid or not: an object, or the JSON text itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    stated = len(text) if length is None else length
    return {NAME: stated.to_bytes(8, "little") + text + data}


def tensor(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class TestContract(FormatContract):
    format_name = "safetensors"
    file_name = NAME

    def make(self, path: Path) -> Arrays:
        rng = np.random.default_rng(0)
        arrays = {
            "float": rng.random((3, 5), "float32"),
            "int": rng.integers(-9, 9, (7,)),
            "none": np.zeros((0, 4), "float16"),
            "scalar": np.array(True),
        }
        path.write_bytes(stock_save(arrays))
        return dict(stock_load(path.read_bytes()))


STOCK_DTYPES = ["bool", "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(STOCK_DTYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        max_size=6,
    ),
    st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), min_size=1),
)
def test_random_files_equal_the_reference_reader(
    arrays: Arrays, metadata: dict[str, str] | None
) -> None:
    arrays.pop("__metadata__", None)
    content = stock_save(arrays, metadata=metadata)
    found, expected = load({NAME: content}), stock_load(content)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 80))
def test_random_bytes_raise_errors_of_ours(text: bytes, length: int) -> None:
    for files in (craft(text), craft(text, length=length), {NAME: text}):
        with pytest.raises(AsyncloadError):
            index(files)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "U8", "BOOL", "F4", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 20), min_size=2, max_size=2) | JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), FIELDS | JSON) | JSON, st.binary(max_size=16))
def test_any_json_is_indexed_exactly_or_refused(header: Any, data: bytes) -> None:
    try:
        manifest = index(craft(header, data))
    except FormatError:
        return
    assert manifest.nbytes == len(data)
    assert sum(entry.length for entry in manifest.tensors.values()) == len(data)


@pytest.mark.parametrize(
    ("stored", "canonical"),
    [
        ("BOOL", "bool"),
        ("U8", "uint8"),
        ("I8", "int8"),
        ("U16", "uint16"),
        ("I16", "int16"),
        ("U32", "uint32"),
        ("I32", "int32"),
        ("U64", "uint64"),
        ("I64", "int64"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("F32", "float32"),
        ("F64", "float64"),
        ("C64", "complex64"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
        ("F8_E8M0", "float8_e8m0fnu"),
    ],
)
def test_every_dtype_of_the_specification(stored: str, canonical: str) -> None:
    expected = np.array([0, 1, 1, 2][: 4 if canonical != "bool" else 3]).astype(
        numpy_dtype(canonical)
    )
    data = expected.tobytes()
    found = load(craft({"t": tensor(stored, [len(expected)], 0, len(data))}, data))["t"]
    assert found.dtype == numpy_dtype(canonical)
    assert found.tobytes() == data


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_dtypes_below_a_byte_name_the_tensor(dtype: str) -> None:
    with pytest.raises(FormatError, match=f"'narrow'.*{dtype}"):
        index(craft({"narrow": tensor(dtype, [8], 0, 6)}, bytes(6)))


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"t": tensor("F32", [2], 0, 4)}, 4, "takes 8 bytes, but 4"),
        ({"t": tensor("F32", [1], 0, 4)}, 3, "out of range or truncated"),
        ({"t": tensor("F32", [1], 4, 0)}, 8, "out of range"),
        ({"t": tensor("F32", [1], -4, 0)}, 8, "whole numbers"),
        ({"t": tensor("F32", [-1, -1], 0, 4)}, 4, "whole numbers"),
        ({"t": tensor("F32", [1.0], 0, 4)}, 4, "whole numbers"),
        ({"t": tensor("F32", [True], 0, 4)}, 4, "whole numbers"),
        ({"t": tensor("U8", [0, 1 << 70], 0, 0)}, 0, "too large for any machine"),
        ({"t": tensor("U8", [1] * 65, 0, 1)}, 1, "65 dimensions"),
        ({"t": tensor("Q7", [1], 0, 1)}, 1, "dtype 'Q7', unknown; known are BOOL"),
        ({"t": tensor([], [1], 0, 1)}, 1, r"dtype \[\], unknown"),  # type: ignore[arg-type]
        ({"t": {"dtype": "U8"}}, 0, "expected dtype, shape and data_offsets"),
        ({"t": 3}, 0, "expected dtype, shape and data_offsets"),
        ({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, 6, "'b'.*overlaps"),
        ({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 0, 4)}, 4, "overlaps"),
        ({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 4, 6)}, 6, "'b'.*leaves a gap"),
        ({"a": tensor("U8", [2], 1, 3)}, 3, "'a'.*leaves a gap"),
        ({"a": tensor("U8", [2], 0, 2)}, 3, "holds 3 bytes of data, of which tensors cover 2"),
        ({"__metadata__": {"a": 1}}, 0, "not an object of texts"),
        ([], 0, "JSON list"),
        (b'{"a": 1, "a": 1}', 0, "'a' stands there twice"),
        (b'{"t": {"dtype": "U8", "dtype": "I8"}}', 0, "'dtype' stands there twice"),
        (b"{", 0, "no valid JSON"),
        (b'{"a": "\xff"}', 0, "no valid JSON"),
        (b'{"\\ud800": {}}', 0, "no valid JSON"),
        (b'{"a":' + b"[" * 100_000, 0, "no valid JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", 0, "no valid JSON"),
        (b"", 0, "no valid JSON"),
    ],
)
def test_a_contradictory_header_is_corrupt(header: Any, data: int, says: str) -> None:
    with pytest.raises(FormatError, match=f"memory://folder/{NAME}.*{says}"):
        index(craft(header, bytes(data)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"1234567", "has 7 bytes"),
        (b"\x09" + bytes(7) + b"{}", "header of 9 bytes, but only 2 follow"),
        (b"\xff" * 8 + b"{}", "header of 18446744073709551615 bytes, but only 2"),
    ],
)
def test_a_header_beyond_the_file_is_corrupt(content: bytes, says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        index({NAME: content})


def test_a_header_beyond_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge, match="limit is 100000000"):
        index({NAME: (100_000_001).to_bytes(8, "little") + bytes(100_000_001)})


def test_metadata_becomes_a_document() -> None:
    content = stock_save({"a": np.zeros(1)}, metadata={"format": "np"})
    assert json.loads(index({NAME: content}).documents["__metadata__"]) == {"format": "np"}


def test_a_long_header_takes_a_second_read() -> None:
    arrays = {f"layers/{number}": np.full(1, number) for number in range(5000)}
    found = load({NAME: stock_save(arrays)})
    assert found.keys() == arrays.keys()
    assert found["layers/4999"] == 4999
