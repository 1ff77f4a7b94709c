"""Checkpoints of TensorFlow's first format: an error that says so, and a way to convert them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import asyncload

v1 = tf.compat.v1
VALUES = {"w": np.arange(6, dtype="float32").reshape(2, 3), "n": np.array([1, -2, 300])}


def write(folder: Path, *, sharded: bool) -> Path:
    folder.mkdir()
    with tf.Graph().as_default(), v1.Session() as session:
        for name, value in VALUES.items():
            v1.get_variable(name, initializer=value)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(write_version=v1.train.SaverDef.V1, sharded=sharded)
        return Path(saver.save(session, str(folder / "model.ckpt"), global_step=7))


@pytest.mark.parametrize("sharded", [False, True])
async def test_they_are_named(sharded: bool, tmp_path: Path) -> None:
    write(tmp_path / "run", sharded=sharded)
    (file,) = (each for each in (tmp_path / "run").glob("model*") if each.suffix != ".meta")
    for uri in (file, tmp_path / "run"):
        with pytest.raises(asyncload.FormatError, match=r"first format \(V1\).*docs/formats"):
            await asyncload.load_weights(uri)


async def test_the_documented_way_converts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run", sharded=False).rename("model.ckpt")
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    (code,) = re.findall(r"```python\n(.*?SaveV2.*?)```", page, re.DOTALL)
    exec(code, {})
    weights = await asyncload.load_weights("converted")
    assert {name: value.tolist() for name, value in weights.items()} == {
        name: value.tolist() for name, value in VALUES.items()
    }


@pytest.mark.parametrize("content", [b"\0\0\x05\n\x03\nabc", b"\0\0\x05\n\x03\nabc" + bytes(60)])
async def test_what_begins_as_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(asyncload.UnknownFormat, match="ends as none"):
        await asyncload.load_weights(tmp_path / "model.ckpt")
