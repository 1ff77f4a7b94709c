"""An HDF5 file that is still coming is indexed as one that is all there, and no byte is made up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncload.errors import Corrupt, TooLarge, Unsafe
from asyncload.formats import _hdf5_walk_on
from asyncload.formats._hdf5_rows import Row
from asyncload.formats._hdf5_walk import walk_file
from asyncload.formats._hdf5_walk_on import walk_on
from asyncload.interfaces import Bounds
from asyncload.manifest import file_version
from asyncload.pipeline._stretches import Stretches
from tests.formats.hdf5_files import index_file
from tests.formats.memory import BytesSource, index_files

_BLOCK = 16 << 10  # bytes


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of many groups, with the lists of their members scattered among the data."""
    path = tmp_path_factory.mktemp("early") / "m.weights.h5"
    random = np.random.default_rng(5)
    with h5py.File(path, "w") as file:
        for index in range(400):  # more than one node has room for
            group = file.create_group(f"layers/dense_{index}/vars")
            group["0"] = random.random((50, index % 60 + 1), "float32")
            if index % 9 == 0:
                data = np.arange(3000 + index, dtype="int32").reshape(-1, 1)
                group.create_dataset("1", data=data, compression="gzip", chunks=(100, 1))
            if index % 50 == 0:
                group["big"] = random.random(20_000)
        file.create_group("empty")
        file.create_dataset("none", shape=(0, 3), dtype="float32")
        file.create_dataset("scalar", data=np.float16(3))
    return path


def test_in_the_order_of_the_file(many: Path) -> None:
    found, _ = asyncio.run(index_files(BytesSource({many.name: many.read_bytes()})))
    assert list(found.tensors.items()) == list(index_file(many).items())


@given(order=st.randoms(use_true_random=False), at_once=st.integers(5, 200))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_any_order(many: Path, order: object, at_once: int) -> None:
    status = many.stat()
    version, size = file_version(status), status.st_size
    blocks = list(range(-(-size // _BLOCK)))
    order.shuffle(blocks)  # type: ignore[attr-defined]
    there, state = Stretches(), b""
    rows: list[Row] = []
    while True:
        walked = walk_on(state, Bounds(), str(many), version, 0, size, "m", tuple(there))
        rows += walked.rows
        state = walked.state
        if not state:
            break
        missing = [*walked.apart, *([walked.next] if walked.next else [])]
        assert missing
        assert not all(there.covers(at, min(at + length, size)) for at, length in missing)
        for block in blocks[:at_once]:
            there.add(block * _BLOCK, (block + 1) * _BLOCK)
        del blocks[:at_once]
    assert sorted(rows) == sorted(walk_file(str(many), version, 0, size, "m", Bounds())[0])


def test_most_is_known_before_the_end_has_come(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in front, once the lists of members have come: the data behind is not needed."""
    monkeypatch.setattr(_hdf5_walk_on, "_NEAR", _BLOCK)  # as the file is small
    status = many.stat()
    where = (str(many), file_version(status), 0, status.st_size, "m")
    there = Stretches([(0, status.st_size // 2 // _BLOCK * _BLOCK)])
    rows, state = 0, b""
    for _ in range(20):
        walked = walk_on(state, Bounds(), *where, tuple(there))
        rows, state = rows + len(walked.rows), walked.state
        for offset, length in walked.apart:
            there.add(offset // _BLOCK * _BLOCK, -(-(offset + length) // _BLOCK) * _BLOCK)
    assert walked.next is not None
    assert walked.next[0] >= status.st_size // 2 // _BLOCK * _BLOCK
    assert rows > 0.4 * len(index_file(many))


@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/a"), h5py.ExternalLink("other.h5", "/a")], ids=["soft", "external"]
)
def test_links_are_refused(link: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["a"] = np.zeros(9)
        file["b"] = link
    content = (tmp_path / "m.weights.h5").read_bytes()
    with pytest.raises(Unsafe, match="which is a link"):
        asyncio.run(index_files(BytesSource({"m.weights.h5": content})))


def test_objects_of_two_names(tmp_path: Path) -> None:
    """Only a walk over all of it knows by which name HDF5 finds them first."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["z/first"] = np.arange(9)
        file["a/second"] = file["z/first"]
    found, _ = asyncio.run(index_files(BytesSource({path.name: path.read_bytes()})))
    assert found.tensors == index_file(path)
    with h5py.File(path, "a") as file:
        file["z/again"] = file["/"]
    with pytest.raises(Unsafe, match="contain itself"):
        asyncio.run(index_files(BytesSource({path.name: path.read_bytes()})))


def test_what_datasets_declare_is_counted_over_all_steps(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for index in range(40):
            file[f"pad{index}"] = np.random.default_rng(index).random(400)
            zeros = np.zeros((1 << 20,), "float32")
            file.create_dataset(f"bomb{index}", data=zeros, compression="gzip", chunks=(1 << 20,))
    with pytest.raises(TooLarge, match="bomb"):
        asyncio.run(index_files(BytesSource({path.name: path.read_bytes()})))


def test_damage_is_told_from_what_is_missing(many: Path) -> None:
    content = bytearray(many.read_bytes())
    at = content.index(b"TREE", len(content) // 2)
    content[at : at + 4] = b"EERT"
    with pytest.raises(Corrupt, match="damaged"):
        asyncio.run(index_files(BytesSource({many.name: bytes(content)})))
