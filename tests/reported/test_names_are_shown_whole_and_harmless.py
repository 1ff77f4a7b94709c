"""Names of tensors and files are data: a terminal does not obey them, a pipe does not cut them."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

import asyncload
from asyncload.cli import app
from asyncload.events import SwapFailed
from asyncload.report import ProgressReporter

EVIL = "a\x1b]0;owned\x07\x1b[31m\rb\x9b2J\u202ec\n"
SHOWN = r"a\x1b]0;owned\x07\x1b[31m\rb\x9b2J\u202ec\n"
LONG = "/".join(["a_rather_long_scope"] * 12)


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_file({EVIL: np.zeros(3), **{f"{LONG}/{each}": np.zeros(3) for each in range(3)}}, path)
    return path


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_piped_table_has_a_line_for_each_tensor(
    weights: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = command("inspect", weights)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in (SHOWN, *(f"{LONG}/{each}" for each in range(3))):
        (line,) = [each for each in lines if name in each]
        assert "float64" in line
        assert "raw" in line
    assert harmless(done.stdout)


def test_every_command_shows_names_harmlessly(weights: Path, tmp_path: Path) -> None:
    name = f"m{EVIL}.safetensors"
    os.rename(weights, tmp_path / name)
    for arguments in (
        ("inspect", tmp_path / name),
        ("load", "--weights", tmp_path / name),
        ("ls", tmp_path),
        ("ls", "-l", tmp_path),
        ("fetch", tmp_path / name, tmp_path / f"copy{EVIL}"),
    ):
        done = command(*arguments)
        assert done.exit_code == 0, done.stderr
        assert SHOWN in done.stdout
        assert harmless(done.stdout), done.stdout
        assert harmless(done.stderr), done.stderr
    done = command("inspect", "--json", tmp_path / name)
    assert harmless(done.stdout)
    assert EVIL in [tensor["name"] for tensor in json.loads(done.stdout)["tensors"]]


def test_an_error_of_the_command_is_harmless(tmp_path: Path) -> None:
    done = command("inspect", tmp_path / f"none{EVIL}.keras")
    assert done.exit_code == 1
    assert SHOWN.rstrip(r"\n") in done.stderr
    assert harmless(done.stderr)


async def test_errors_and_logs_are_harmless(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"w{EVIL}.npz"
    arrays: dict[str, Any] = {EVIL: np.zeros(3)}
    np.savez(path, **arrays)
    async with asyncload.Loader(executor="thread") as loader:
        with caplog.at_level(logging.INFO, "asyncload"):
            loaded = await loader.load_weights(path)
            texts = [repr(loaded), repr(loaded.manifest)]
            path.write_bytes(b"\x80\x04no archive")
            with pytest.raises(asyncload.FormatError) as caught:
                await loader.load_weights(path)
            with pytest.raises(asyncload.NotFound) as missing:
                await loader.load_weights(f"{path}.none")
    logged = [each.message for each in caplog.records if each.name == "asyncload"]
    texts += [str(caught.value), repr(caught.value), str(missing.value), *logged]
    assert len(logged) == 3
    for text in texts:
        assert harmless(text), text
    assert list(loaded) == [EVIL]
    assert caught.value.uri == str(path)
    mismatch = asyncload.MismatchError(f"does not fit:\n  {EVIL} is too much", tensor=EVIL)
    assert harmless(str(mismatch))
    assert str(mismatch).count("\n") == 2  # the message's own, and that of the name: no other


async def test_a_slot_s_status_is_harmless(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(3))

    async def check(model: object) -> None:
        raise ValueError(EVIL)

    failed: list[asyncload.Event] = []
    slot = asyncload.ModelSlot(tmp_path / "w.npy", check=check, observer=failed.append)
    with pytest.raises(asyncload.SwapRefused) as caught:
        async with slot:
            pass
    await asyncload.aclose()
    texts = [str(caught.value), *(str(each.error) for each in slot.versions)]
    texts += [each.error for each in failed if isinstance(each, SwapFailed)]
    assert len(texts) == 3
    assert all(harmless(text) and "owned" in text for text in texts)


async def test_bars_are_harmless_and_whole(tmp_path: Path) -> None:
    path = tmp_path / f"{'long' * 40}{EVIL}.npy"
    np.save(path, np.zeros(3))
    target = io.StringIO()
    with ProgressReporter(console=Console(file=target, width=2000)) as bars:
        async with asyncload.Loader(executor="thread", observer=bars) as loader:
            await loader.load_weights(path)
    (line,) = [each for each in target.getvalue().splitlines() if each.strip()]
    assert "long" * 40 in line
    assert SHOWN in line
    assert harmless(line)


async def test_warnings_are_harmless(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    arrays: dict[str, Any] = {EVIL: np.zeros(3)}
    np.savez(tmp_path / "w.npz", **arrays)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await asyncload.load_into(model, tmp_path / "w.npz", skip_mismatch=True)
    await asyncload.aclose()
    texts = [str(each.message) for each in caught if "left as it was" in str(each.message)]
    assert texts
    assert all(harmless(text) for text in texts)
