"""What the README shows runs as it stands there."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import asyncload

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with every file that the README names."""
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="dense")])
    for name in ("m.keras", "next.keras", "resnet.keras"):
        model.save(tmp_path / name)
    model.export(tmp_path / "ranker" / "3", verbose=False)
    tf.train.Checkpoint(v=tf.Variable(1.0)).write(tmp_path / "ckpt-12")
    safetensors.numpy.save_file({"a": np.arange(4.0)}, tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
async def test_blocks_run(block: str, folder: Path) -> None:
    import keras
    import tensorflow as tf

    namespace: dict[str, Any] = {
        "asyncload": asyncload,
        "checkpoint": tf.train.Checkpoint(v=tf.Variable(2.0)),
        "x": np.ones((2, 4), "float32"),
        "numpy": np,
        "Block": keras.layers.Dense,
        "uris": [folder / "model.safetensors"],
    }
    code = compile(block, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, namespace)
    if inspect.iscoroutine(outcome):
        await outcome


def test_every_public_function_is_shown() -> None:
    shown = "\n".join(BLOCKS)
    functions = [name for name in asyncload.__all__ if name.islower()]
    assert [
        name for name in functions if f"asyncload.{name}(" not in shown + README.read_text()
    ] == []
