"""The ``asyncload`` command, as a shell sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

import asyncload
from asyncload import cli
from asyncload.cli import _command
from asyncload.loader import _recall
from asyncload.sources import ObjectCache


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    arrays = {
        "block[0]/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
        "scale": np.asarray(2, np.int64),
        "half": np.ones(5, ml_dtypes.bfloat16),
    }
    safetensors.numpy.save_file(arrays, path)
    return path


def run(*args: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def shell(*args: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from asyncload.cli import main; main()", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=os.environ | more
    )


def test_inspect_lists_every_tensor(weights: Path) -> None:
    done = run("inspect", weights)
    assert done.exit_code == 0
    for text in ("block[0]/kernel", "3 × 4", "bfloat16", "scalar", "raw", "3 tensors"):
        assert text in done.stdout


def test_inspect_as_json(weights: Path) -> None:
    document = json.loads(run("inspect", weights, "--json").stdout)
    assert document["format"] == "safetensors"
    tensors = {tensor["name"]: tensor for tensor in document["tensors"]}
    assert tensors["block[0]/kernel"]["shape"] == [3, 4]
    assert document["nbytes"] == sum(tensor["nbytes"] for tensor in tensors.values())


def test_load_says_what_and_how_long(weights: Path) -> None:
    done = run("load", weights)
    assert done.exit_code == 0, done.output
    for text in ("weights", "safetensors", "seconds", "index", "read"):
        assert text in done.stdout


def test_load_as_json_is_json_alone(weights: Path) -> None:
    done = shell("load", weights, "--json")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["tensors"] == 3
    assert document["seconds"] > 0
    assert [span["stage"] for span in document["timeline"]["spans"]] == ["index", "read"]


def test_load_weights_needs_no_tensorflow(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3))
    script = (
        "import sys\n"
        "from asyncload.cli import main\n"
        f"sys.argv = ['asyncload', 'load', '--weights', {str(path)!r}]\n"
        "try:\n    main()\n"
        "finally:\n    assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_load_a_keras_model(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "m.keras"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="small")
    model.save(path)
    done = run("load", path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["kind"].endswith("Sequential")
    assert (document["name"], document["parameters"], document["tensors"]) == ("small", 15, 2)
    assert {span["stage"] for span in document["timeline"]["spans"]} >= {"index", "read", "build"}


def test_the_cache_is_shown_used_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_recall, "SETTLED", 0)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
    objects = ObjectCache()
    empty = {
        "folder": str(tmp_path / "asyncload" / "index"),
        "entries": 0,
        "nbytes": 0,
        "objects": {"folder": str(tmp_path / "asyncload" / "objects"), "entries": 0, "nbytes": 0},
    }
    assert json.loads(run("cache", "info", "--json").stdout) == empty
    loads = [json.loads(run("load", path, "--json").stdout)["index"] for _ in range(2)]
    assert loads == ["from the file", "from the cache"]
    objects.release(objects.open_entry(bytes(32), 99))
    held = json.loads(run("cache", "info", "--json").stdout)
    assert held["entries"] == held["objects"]["entries"] == 1
    assert held["nbytes"] > 100
    assert json.loads(run("cache", "clear", "--json").stdout) == held
    assert json.loads(run("cache", "info", "--json").stdout) == empty
    assert run("cache", "info").stdout.replace("\n", " ").count("holds 0 entries") == 2


@pytest.mark.parametrize("command", ["load", "inspect"])
def test_an_error_is_one_line_and_exit_code_one(command: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path / "missing.keras")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("asyncload: ")
    assert "missing.keras" in line


def test_a_broken_file_is_named(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1])
    done = run("load", weights)
    assert done.exit_code == 1
    assert "weights.safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = shell("inspect", tmp_path / "missing.keras", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "NotFound" in done.stderr


def test_what_nobody_expected_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(uri: str) -> None:
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr(asyncload, "inspect", fail)
    done = run("inspect", "anything")
    assert done.exit_code == 1
    expected = "asyncload: ZeroDivisionError: first second (--debug shows where)\n"
    assert done.stderr == expected


def test_without_tensorflow_it_says_what_to_install(tmp_path: Path) -> None:
    error = ModuleNotFoundError("No module named 'keras'", name="keras")
    assert "pip install 'asyncload[tensorflow]'" in _command._one_line(error)


def test_no_arguments_show_the_help() -> None:
    assert "inspect" in run().output


def test_the_reader_may_go_away(weights: Path) -> None:
    command = (
        f"{sys.executable} -c 'from asyncload.cli import main; main()' inspect {weights} --json"
    )
    done = subprocess.run(
        ["bash", "-c", f"{command} | true"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr


def test_load_a_saved_model(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.v = tf.Variable(2.0)
    module.run = tf.function(
        lambda x: {"y": x * module.v}, input_signature=[tf.TensorSpec([None], tf.float32, "x")]
    )
    tf.saved_model.save(module, tmp_path / "m", signatures=module.run)
    done = run("load", tmp_path / "m", "--warmup")
    assert done.exit_code == 0, done.output
    for text in ("signatures", "serving_default", "(x: float32 (None,)) -> y", "warm-up"):
        assert text in done.stdout
    document = json.loads(run("load", tmp_path / "m", "--whole", "--json").stdout)
    assert document["signatures"] == "serving_default"
    document = json.loads(run("load", tmp_path / "m", "--weights", "--json").stdout)
    assert document["tensors"] == 1
