"""HDF5 files are indexed as h5py reads them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from h5py import h5d, h5p, h5s, h5t
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncload.errors import SourceChanged
from asyncload.formats._hdf5 import index_hdf5
from asyncload.formats._hdf5_walk import walk_file
from asyncload.interfaces import Bounds, Indexing, OpenFiles
from asyncload.manifest import Chunked, Inline, Reorder, file_version
from asyncload.sources import open_source
from asyncload.workers import Workers
from tests.contracts.format_contract import Arrays, FormatContract

from .hdf5_files import index_file, read_file

Array = npt.NDArray[Any]
NUMBERS = np.arange(12, dtype="f4").reshape(3, 4)


class TestContract(FormatContract):
    format_name = "keras-weights"
    file_name = "w.weights.h5"

    def make(self, path: Path) -> Arrays:
        rng = np.random.default_rng(0)
        with h5py.File(path, "w") as file:
            values = file.create_group("layers/dense/vars")
            values["0"] = rng.random((30, 20), "float32")
            values["1"] = rng.random(20).astype(">f8")
            file.create_dataset(
                "packed", data=rng.random((70, 9)), chunks=(16, 4), compression="gzip", shuffle=True
            )
            file["flag"] = True
        return stock(path)


def stock(path: Path) -> dict[str, Array]:
    """Return what h5py finds."""
    found: dict[str, Array] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()])

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def assert_reads_as_h5py_does(path: Path) -> None:
    expected, found = stock(path), read_file(path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert (found[name].dtype, found[name].shape) == (native.dtype, native.shape)
        assert found[name].tobytes() == native.tobytes()


# --- layouts -----------------------------------------------------------------------------


def low_level(
    path: Path, data: Array | None, change: Callable[[Any], None], shape: tuple[int, ...] = (3, 4)
) -> None:
    """Write one dataset with a creation property list of one's own."""
    plist = h5p.create(h5p.DATASET_CREATE)
    change(plist)
    with h5py.File(path, "w") as file:
        space = h5s.create_simple(shape)
        dataset = h5d.create(file.id, b"d", h5t.IEEE_F32LE, space, dcpl=plist)
        if data is not None:
            dataset.write(h5s.ALL, h5s.ALL, data)


def test_contiguous_is_raw(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["d"] = NUMBERS
    assert_reads_as_h5py_does(tmp_path / "f")
    assert index_file(tmp_path / "f")["d"].encoding is None


def test_compact_is_inline(tmp_path: Path) -> None:
    low_level(tmp_path / "f", NUMBERS, lambda plist: plist.set_layout(h5d.COMPACT))
    assert_reads_as_h5py_does(tmp_path / "f")
    assert isinstance(index_file(tmp_path / "f")["d"].encoding, Inline)


@pytest.mark.parametrize("rows", [3, 3000])
@pytest.mark.parametrize("value", [None, 0.0, 2.5])
def test_what_was_never_written_is_filled(tmp_path: Path, rows: int, value: float | None) -> None:
    def change(plist: Any) -> None:
        if value is not None:
            plist.set_fill_value(np.array(value, "f4"))

    low_level(tmp_path / "f", None, change, (rows, 4))
    assert_reads_as_h5py_does(tmp_path / "f")
    entry = index_file(tmp_path / "f")["d"]
    assert isinstance(entry.encoding, Inline if rows == 3 else Chunked)
    assert entry.spans() == ()


def test_one_plain_chunk_is_raw(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset("d", data=NUMBERS, chunks=(3, 4), maxshape=(None, 4))
        file.create_dataset("big endian", data=NUMBERS.astype(">f4"), chunks=(3, 4))
    assert_reads_as_h5py_does(tmp_path / "f")
    entries = index_file(tmp_path / "f")
    assert entries["d"].encoding is None
    assert entries["big endian"].encoding == Reorder("C", swap=True)


def test_chunks_that_were_not_written_are_filled(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = file.create_dataset("d", (50, 7), ">f4", chunks=(8, 3), fillvalue=-1.5)
        dataset[10:20, 2:5] = 3
    assert_reads_as_h5py_does(tmp_path / "f")
    encoding = index_file(tmp_path / "f")["d"].encoding
    assert isinstance(encoding, Chunked)
    assert encoding.fill == np.float32(-1.5).tobytes()


def test_a_dataset_that_was_made_smaller(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = file.create_dataset(
            "d", data=np.arange(100.0), chunks=(8,), maxshape=(None,), compression="gzip"
        )
        dataset.resize((37,))
    assert_reads_as_h5py_does(tmp_path / "f")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1)])
def test_scalars_and_empty_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["d"] = np.ones(shape)
        if shape:
            file.create_dataset("c", shape, "f4", maxshape=(None,) * len(shape), chunks=True)
    assert_reads_as_h5py_does(tmp_path / "f")


@pytest.mark.parametrize("libver", ["earliest", "v110", "latest"])
@pytest.mark.parametrize("userblock", [0, 512, 4096])
def test_every_generation_of_the_format(tmp_path: Path, libver: str, userblock: int) -> None:
    compact = h5p.create(h5p.DATASET_CREATE)
    compact.set_layout(h5d.COMPACT)
    with h5py.File(tmp_path / "f", "w", libver=libver, userblock_size=userblock) as file:
        for index in range(40):  # groups in more than one node
            file[f"group {index}/vars/0"] = NUMBERS + index
        file.create_dataset("chunks", data=NUMBERS, chunks=(2, 3), compression="gzip")
        file.create_dataset("one chunk", data=NUMBERS, chunks=(3, 4), compression="gzip")
        file.create_dataset("growing", data=NUMBERS, chunks=(1, 2), maxshape=(None, None))
        file.create_dataset("never written", (5, 5), "f4")
        dataset = h5d.create(
            file.id, b"compact", h5t.IEEE_F32LE, h5s.create_simple((3, 4)), dcpl=compact
        )
        dataset.write(h5s.ALL, h5s.ALL, NUMBERS)
    assert_reads_as_h5py_does(tmp_path / "f")


def test_a_dataset_of_two_names_has_both(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["a"] = NUMBERS
        file["pad"] = np.zeros(1000)
        file["b"] = file["a"]
    found = read_file(tmp_path / "f")
    assert np.array_equal(found["a"], NUMBERS)
    assert np.array_equal(found["b"], NUMBERS)


def test_groups_and_types_without_data_are_no_tensors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_group("a/b/c")
        file["type"] = np.dtype("f4")
    assert index_file(tmp_path / "f") == {}


# --- filters -----------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_filters(tmp_path: Path, compression: str | None, shuffle: bool, checksum: bool) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "f", "w") as file:
        options: dict[str, Any] = {
            "compression": compression,
            "shuffle": shuffle,
            "fletcher32": checksum,
        }
        for name, data in {
            "random": rng.random((33, 21)),
            "equal": np.full((64, 64), 7, "i2"),
            "complex": rng.random((11, 9)) + 1j,
            "bytes": rng.integers(0, 3, (50, 3), "u1"),
            "big endian": rng.random((33, 21)).astype(">f4"),
        }.items():
            file.create_dataset(name, data=data, chunks=(10, 3), **options)
    assert_reads_as_h5py_does(tmp_path / "f")


def test_filters_that_a_chunk_skipped(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = file.create_dataset(
            "d", (4, 4), "f4", chunks=(2, 4), shuffle=True, compression="gzip"
        )
        dataset.id.write_direct_chunk((0, 0), NUMBERS[:2].tobytes(), filter_mask=0b11)
        dataset[2:] = 9
    assert_reads_as_h5py_does(tmp_path / "f")


# --- types -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["b1", "i1", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_types(tmp_path: Path, dtype: str, order: str, chunks: tuple[int, ...] | None) -> None:
    data = np.arange(20).reshape(4, 5).astype(order + dtype)
    with h5py.File(tmp_path / "f", "w") as file:
        file.create_dataset("d", data=data, chunks=chunks, shuffle=chunks is not None)
    assert_reads_as_h5py_does(tmp_path / "f")


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2fnuz"])
def test_types_that_keras_names_in_an_attribute(tmp_path: Path, name: str) -> None:
    data = np.arange(6).astype(getattr(ml_dtypes, name))
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = file.create_dataset("d", data=data)
        dataset.attrs["dtype"] = name
        file.create_dataset("fixed", data=data).attrs["dtype"] = np.bytes_(name)
    for found in read_file(tmp_path / "f").values():
        assert found.dtype == data.dtype
        assert found.tobytes() == data.tobytes()


def test_opaque_elements_without_a_name_stay_opaque(tmp_path: Path) -> None:
    data = np.arange(6).astype(ml_dtypes.float8_e4m3fn)
    with h5py.File(tmp_path / "f", "w") as file:
        file["d"] = data
    assert np.array_equal(read_file(tmp_path / "f")["d"].view(data.dtype), data)


@pytest.mark.parametrize("order", [h5t.ORDER_LE, h5t.ORDER_BE])
def test_bfloat16_as_hdf5_itself_describes_it(tmp_path: Path, order: int) -> None:
    data = np.arange(6).astype(ml_dtypes.bfloat16)
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    kind.set_order(order)
    with h5py.File(tmp_path / "f", "w") as file:
        dataset = h5d.create(file.id, b"d", kind, h5s.create_simple((6,)))
        dataset.write(h5s.ALL, h5s.ALL, data.astype("f4"))
    found = read_file(tmp_path / "f")["d"]
    assert found.dtype == data.dtype
    assert np.array_equal(found, data)


def test_enumerations_are_their_numbers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        kind = h5py.enum_dtype({"red": 1, "green": 2}, basetype=">i2")
        file.create_dataset("d", data=np.array([1, 2, 1], ">i2"), dtype=kind)
    found = read_file(tmp_path / "f")["d"]
    assert (found.tolist(), found.dtype) == ([1, 2, 1], np.dtype("i2"))


# --- a file within a file, and the way through a worker --------------------------------


def test_a_file_at_any_offset_of_another(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["raw"] = NUMBERS
        file.create_dataset("packed", data=np.arange(1000), chunks=(64,), compression="gzip")
    inner = (tmp_path / "f").read_bytes()
    (tmp_path / "outer").write_bytes(b"x" * 12345 + inner + b"y" * 99)
    found = read_file(tmp_path / "outer", 12345, len(inner))
    assert np.array_equal(found["raw"], NUMBERS)
    assert np.array_equal(found["packed"], np.arange(1000))


async def test_a_worker_process_indexes_the_version_that_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = NUMBERS
    workers = Workers(processes=1)
    try:
        async with open_source(path, threads=workers.threads) as source:
            files = OpenFiles([await source.open()])
            indexing = Indexing(source, files, workers, _no_unpack)
            assert await index_hdf5(indexing, 0) == index_file(path)
            path.write_bytes(path.read_bytes())
            with pytest.raises(SourceChanged, match="load it again"):
                await index_hdf5(indexing, 0)
            path.unlink()
            with pytest.raises(SourceChanged, match="load it again"):
                await index_hdf5(indexing, 0)
    finally:
        await workers.aclose()


def test_a_file_that_shrinks_while_it_is_walked(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f", "w") as file:
        file["d"] = NUMBERS
    status = (tmp_path / "f").stat()
    with pytest.raises(SourceChanged, match="short of its length"):
        walk_file(
            str(tmp_path / "f"), file_version(status), 0, status.st_size + 1000, "f", Bounds()
        )


async def _no_unpack(*where: Any) -> Any:
    raise AssertionError(where)


# --- anything ----------------------------------------------------------------------------


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    dtype = draw(st.sampled_from(["<f4", ">f4", "<f8", "<i2", ">i8", "u1", "?", "<c8", "<f2"]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    data = rng.integers(0, draw(st.sampled_from([2, 250])), shape).astype(dtype)
    options: dict[str, Any] = {}
    if shape and all(shape) and draw(st.booleans()):
        options["chunks"] = tuple(draw(st.integers(1, size)) for size in shape)
        options["shuffle"] = draw(st.booleans())
        options["fletcher32"] = draw(st.booleans())
        options["compression"] = draw(st.sampled_from([None, "gzip", "lzf"]))
    return data, options


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/."), min_size=1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), datasets(), max_size=6),
    st.sampled_from(["earliest", "latest"]),
)
def test_any_file_reads_as_h5py_reads_it(
    tmp_path: Path, content: dict[tuple[str, ...], tuple[Array, dict[str, Any]]], libver: str
) -> None:
    path = tmp_path / f"f{random.getrandbits(64):x}"
    with h5py.File(path, "w", libver=libver) as file:
        for parts, (data, options) in content.items():
            taken = ["/".join(parts[:end]) for end in range(1, len(parts))]
            if "/".join(parts) in file or any(
                isinstance(file.get(name), h5py.Dataset) for name in taken
            ):
                continue
            file.create_dataset("/".join(parts), data=data, **options)
    assert_reads_as_h5py_does(path)
    path.unlink()
