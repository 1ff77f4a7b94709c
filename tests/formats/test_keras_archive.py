"""Keras archives: the config first, then where every weight and every asset lies."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from asyncload.errors import Corrupt, FormatError, TooLarge, Unsafe
from asyncload.manifest import Deflate
from tests.contracts.format_contract import Arrays, FormatContract, indexed, read_tensor
from tests.formats.memory import BytesSource, index, index_files, load
from tests.zoo import save

CONFIG = b'{"class_name": "Sequential", "config": {}}'
METADATA = b'{"keras_version": "3.15.1"}'


def weights() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "layers/dense/vars/0": rng.random((16, 8), "float32"),
        "layers/dense/vars/1": rng.random(8, "float32"),
        "layers/dense_1/vars/0": rng.random((300, 40), "float32"),
    }


def h5(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return buffer.getvalue()


def npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def keras(
    changes: Mapping[str, bytes | None] | None = None, *, method: int = zipfile.ZIP_STORED
) -> bytes:
    """Write an archive as Keras does; a change to ``None`` leaves a member out."""
    members: dict[str, bytes | None] = {
        "metadata.json": METADATA,
        "config.json": CONFIG,
        "model.weights.h5": h5(weights()),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in (members | dict(changes or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return buffer.getvalue()


NPZ = {"model.weights.h5": None, "model.weights.npz": npz(weights())}


class TestContract(FormatContract):
    format_name = "keras"
    file_name = "model.keras"

    def make(self, path: Path) -> Arrays:
        path.write_bytes(keras())
        return weights()


class TestDeflatedContract(TestContract):
    """Archives that were zipped again by hand."""

    def make(self, path: Path) -> Arrays:
        path.write_bytes(keras(method=zipfile.ZIP_DEFLATED))
        return weights()


class TestNpzWeightsContract(TestContract):
    def make(self, path: Path) -> Arrays:
        path.write_bytes(keras(NPZ))
        return weights()


class TestDeflatedNpzWeightsContract(TestContract):
    def make(self, path: Path) -> Arrays:
        path.write_bytes(keras(NPZ, method=zipfile.ZIP_DEFLATED))
        return weights()


async def test_the_config_is_published_after_two_small_reads() -> None:
    large = npz({"w": np.zeros(1 << 17)})  # puts the config outside the read of the file's end
    source = BytesSource({"m.keras": keras(NPZ | {"model.weights.npz": large})})
    reads: list[int] = []

    class Published(list[Mapping[str, bytes]]):
        def append(self, documents: Mapping[str, bytes]) -> None:
            reads.extend(length for _, length in source.readers[0].reads)
            super().append(documents)

    published = Published()
    manifest, _ = await index_files(source, published)
    assert published == [{"config.json": CONFIG, "metadata.json": METADATA}]
    assert manifest.documents == published[0]
    assert len(reads) == 3  # the format's magic number, the directory, the documents
    assert sum(reads) < 200_000


async def test_a_small_archive_takes_one_read_until_its_weights() -> None:
    source = BytesSource({"m.keras": keras(NPZ)})
    await index_files(source)
    assert len(source.readers[0].reads) == 3  # the magic number, the end, the npz directory


def test_assets_are_keyed_below_their_folder() -> None:
    changes = {"assets/layers/lookup/vocabulary.txt": b"a\nb\n", "assets/empty": b"", "other": b"x"}
    content = keras(NPZ | changes)
    assets = index({"m.keras": content}).assets
    assert set(assets) == {"layers/lookup/vocabulary.txt", "empty"}
    entry = assets["layers/lookup/vocabulary.txt"]
    assert (entry.dtype, entry.shape, entry.encoding) == ("uint8", (4,), None)
    assert content[entry.offset : entry.offset + entry.length] == b"a\nb\n"


def test_assets_may_be_deflated() -> None:
    content = keras(NPZ | {"assets/words": b"word\n" * 1000}, method=zipfile.ZIP_DEFLATED)
    entry = index({"m.keras": content}).assets["words"]
    assert entry.nbytes == 5000
    assert isinstance(entry.encoding, Deflate)


def test_weights_may_be_an_npz() -> None:
    found = load({"m.keras": keras(NPZ)})
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in weights().items()
    }


def test_pickled_weights_are_unsafe() -> None:
    pickled = npz({"layers/dense": np.array({"0": np.zeros(3)}, object)})
    with pytest.raises(Unsafe, match=r"'layers/dense'.*Python objects"):
        index({"m.keras": keras(NPZ | {"model.weights.npz": pickled})})


def test_metadata_may_be_missing() -> None:
    assert set(index({"m.keras": keras(NPZ | {"metadata.json": None})}).documents) == {
        "config.json"
    }


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("config.json", "no member config.json.*it holds 'metadata.json', 'model.weights.h5'"),
        ("model.weights.h5", "no member model.weights.h5 or model.weights.npz.*'config.json'"),
    ],
)
def test_a_missing_member_is_named(missing: str, says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        index({"m.keras": keras({missing: None})})


def test_documents_that_are_damaged_are_corrupt() -> None:
    content = keras(NPZ).replace(CONFIG, CONFIG.replace(b"Seq", b"Sex"))
    with pytest.raises(Corrupt, match=r"'config\.json' is not the 42 bytes with the checksum"):
        index({"m.keras": content})


def test_documents_beyond_the_limit_are_too_large() -> None:
    large = bytes((64 << 20) + 1)
    with pytest.raises(TooLarge, match=r"'config\.json' has 67108865 bytes"):
        index({"m.keras": keras(NPZ | {"config.json": large})})


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = keras({"model.weights.h5": bytes(100 << 20)}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(TooLarge, match="bomb"):
        index({"m.keras": bomb})


def test_another_compression_is_named() -> None:
    with pytest.raises(FormatError, match="method 12"):
        index({"m.keras": keras(method=zipfile.ZIP_BZIP2)})


def test_a_path_that_leaves_the_assets_is_unsafe() -> None:
    with pytest.raises(Unsafe, match="plain relative path"):
        index({"m.keras": keras(NPZ | {"assets/../../x": b""})})


async def test_what_keras_saves_is_indexed(tmp_path: Path) -> None:
    path = save("preprocessing", tmp_path)
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as stored:
        with h5py.File(io.BytesIO(stored.read())) as file:
            names: list[str] = []
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        assets = {
            name.removeprefix("assets/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("assets/")
        }
        documents = {name: archive.read(name) for name in ("config.json", "metadata.json")}
    assert assets
    async with indexed(path) as (manifest, files):
        assert set(manifest.tensors) == set(names)
        assert manifest.documents == documents
        assert {
            name: (await read_tensor(entry, files)).tobytes()
            for name, entry in manifest.assets.items()
        } == assets
