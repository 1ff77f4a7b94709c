"""SavedModels keep the contract of formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from asyncload.errors import Corrupt, Unsafe
from asyncload.formats import WARMUP_REQUESTS, detect_folder
from asyncload.interfaces import Format
from tests.contracts.format_contract import Arrays, FormatContract, indexed
from tests.formats import checkpoints

ASSET = "words.txt"


def save(folder: Path) -> None:
    """Save a SavedModel with variables of several dtypes, and an asset."""
    words = folder.parent / ASSET
    words.write_text("zero\none\n")
    module = tf.Module()
    module.numbers = tf.Variable(tf.reshape(tf.range(12.0), [3, 4]))
    module.brain = tf.Variable(tf.constant([1.5, 2.5], tf.bfloat16))
    module.texts = tf.Variable([b"a", b"bcd"])
    module.words = tf.saved_model.Asset(str(words))
    module.run = tf.function(lambda: tf.io.read_file(module.words.asset_path), input_signature=[])
    tf.saved_model.save(module, folder)
    words.unlink()


class TestSavedModel(FormatContract):
    format_name = "saved-model"
    file_name = "model"
    index_files = ("model/saved_model.pb", "model/variables/variables.index")
    all_files = (*index_files, "model/variables/variables.data-00000-of-00001")

    def make(self, path: Path) -> Arrays:
        save(path)
        return checkpoints.stock(path / "variables" / "variables")

    def detected(self, name: str) -> Format:
        return detect_folder([name, "variables", "checkpoint", "saved_model.pb"], uri=name)[1]


async def test_documents_and_assets(tmp_path: Path) -> None:
    save(tmp_path / "model")
    async with indexed(tmp_path / "model") as (manifest, files):
        assert set(manifest.documents) == {"saved_model.pb", "_CHECKPOINTABLE_OBJECT_GRAPH"}
        (entry,) = manifest.assets.values()
        assert entry.name == f"assets/{ASSET}"
        assert await files.readers[entry.file].read(0, entry.length) == b"zero\none\n"


async def test_warm_up_requests_are_an_asset(tmp_path: Path) -> None:
    save(tmp_path / "model")
    path = tmp_path / "model" / WARMUP_REQUESTS
    path.parent.mkdir()
    path.write_bytes(b"requests")
    async with indexed(tmp_path / "model") as (manifest, _):
        assert manifest.assets[WARMUP_REQUESTS].length == 8


async def test_a_missing_asset(tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model" / "assets" / ASSET).unlink()
    with pytest.raises(Corrupt, match=r"words\.txt.*missing"):
        async with indexed(tmp_path / "model"):
            pass


async def test_an_asset_outside_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "model")
    program = tmp_path / "model" / "saved_model.pb"
    content = program.read_bytes()
    assert content.count(b"words.txt") > 0
    program.write_bytes(content.replace(b"words.txt", b"../../x.t"))
    with pytest.raises(Unsafe, match=r"\.\./\.\./x\.t"):
        async with indexed(tmp_path / "model"):
            pass


async def test_without_variables(tmp_path: Path) -> None:
    save(tmp_path / "model")
    for path in (tmp_path / "model" / "variables").iterdir():
        path.unlink()
    (tmp_path / "model" / "variables").rmdir()
    async with indexed(tmp_path / "model") as (manifest, _):
        assert manifest.tensors == {}
