"""A folder that exists is no file: markers, empty folders, links, and names that are both."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.sources import forget_memory, put_memory
from tests.formats import checkpoints

v1 = tf.compat.v1


def write_frozen(folder: Path) -> None:
    """Write a program without variables, as exporters of frozen graphs do."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": 2 * x})


def write_doubling(folder: Path) -> None:
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    module.f = tf.function(
        lambda x: {"y": x * module.factor}, input_signature=[tf.TensorSpec([None, 2], tf.float32)]
    )
    tf.saved_model.save(module, folder, signatures=module.f)


def _empty(folder: Path) -> None:
    folder.mkdir(exist_ok=True)


def _keep(folder: Path) -> None:
    _empty(folder)
    (folder / ".gitkeep").touch()


def _folder_for_index(folder: Path) -> None:
    (folder / "variables.index").mkdir(parents=True)


@pytest.mark.parametrize("make", [shutil.rmtree, _empty, _keep, _folder_for_index])
async def test_a_program_that_needs_no_variables(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    write_frozen(tmp_path / "m")
    make(tmp_path / "m" / "variables")
    for uri in (tmp_path / "m", tmp_path / "m" / "saved_model.pb"):
        served = await asyncload.load(uri)
        assert np.array_equal(np.asarray(served(x=tf.ones((1, 2)))["y"]), [[2, 2]])
        assert len(await asyncload.load_weights(uri)) == 0


async def test_a_marker_of_the_folder(tmp_path: Path) -> None:
    write_frozen(tmp_path / "m")
    content = (tmp_path / "m" / "saved_model.pb").read_bytes()
    try:
        uri = put_memory("marked", {"saved_model.pb": content, "variables/.keep": b""})
        assert len(await asyncload.load_weights(uri)) == 0
        assert list(await asyncload.load(uri, trusted=True)) == ["serving_default"]
    finally:
        forget_memory("marked")


async def test_a_program_that_needs_them(tmp_path: Path) -> None:
    write_doubling(tmp_path / "m")
    (tmp_path / "m" / "variables" / "variables.index").unlink()
    with pytest.raises(asyncload.NotFound, match=r"variables\.index.*shards are there"):
        await asyncload.load(tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "variables")
    with pytest.raises(asyncload.Corrupt, match=r"variables/variables\.index is missing"):
        await asyncload.load(tmp_path / "m")


# --- checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["{folder}/c", "{folder}/sub/c", "sub/c", "./sub/../c"])
async def test_state_files_name_their_folder_in_any_way(named: str, tmp_path: Path) -> None:
    folder = tmp_path / "run 1"
    for name in ("c", "sub/c"):
        checkpoints.save(folder / name, {"a": np.full(2, len(name))})
    (tmp_path / "current").symlink_to(folder)
    (tmp_path / "above").symlink_to(tmp_path)
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{named.replace("{folder}", str(folder))}"\n'
    )
    expected = checkpoints.stock(Path(tf.train.latest_checkpoint(folder)))
    for way in ("run 1", "current", "above/above/run 1", "above/current"):
        weights = await asyncload.load_weights(tmp_path / way)
        assert np.array_equal(weights["a"], expected["a"]), way


async def test_state_files_that_name_another_folder(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "other" / "c", {"a": np.ones(2)})
    (tmp_path / "run").mkdir()
    for named in (tmp_path / "other" / "c", "../other/c"):
        (tmp_path / "run" / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
        with pytest.raises(asyncload.Unsafe, match="give its prefix"):
            await asyncload.load_weights(tmp_path / "run")


async def test_a_folder_named_as_a_state_file(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    with pytest.raises(asyncload.UnknownFormat, match="folder of no known format"):
        await asyncload.load_weights(tmp_path / "run")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
async def test_a_prefix_that_names_something_else_too(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    prefix = tmp_path / "run7"
    make(prefix)
    root = tf.train.Checkpoint(v=tf.Variable([1.0]))
    root.write(str(prefix))
    key = "v/.ATTRIBUTES/VARIABLE_VALUE"
    assert (await asyncload.load_weights(prefix))[key].tolist() == [1.0]
    assert list((await asyncload.inspect(prefix)).tensors) == [key]
    other = tf.train.Checkpoint(v=tf.Variable([0.0]))
    await asyncload.load_into(other, prefix)
    assert other.v.numpy().tolist() == [1.0]
    copy = await asyncload.fetch(prefix, tmp_path / "copy")
    assert (await asyncload.load_weights(copy))[key].tolist() == [1.0]
