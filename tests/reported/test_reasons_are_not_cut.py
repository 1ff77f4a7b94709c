"""What Keras says at length is cut where it quotes configs, not where it names the reason."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import asyncload

ADVICE = "skip_mismatch=True"
Config = dict[str, Any]


def dense(*units: int, **options: Any) -> Any:
    layers = [keras.layers.Dense(each, **options) for each in units]
    return keras.Sequential([keras.Input((4,)), *layers])


def edited(path: Path, change: Callable[[Config], None]) -> None:
    """Change the config in a file of a model."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config)
            file.attrs["model_config"] = json.dumps(config)
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def of_a_later_keras(config: Config) -> None:
    config["config"]["layers"][1]["config"]["future_arg"] = 3


def of_no_units(config: Config) -> None:
    config["config"]["layers"][-1]["config"]["units"] = "many"


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [(of_a_later_keras, "future_arg"), (of_no_units, "many")],
)
async def test_the_reason_is_said(
    tmp_path: Path, ending: str, change: Callable[[Config], None], reason: str
) -> None:
    path = tmp_path / f"m{ending}"
    dense(2, 3, 3, 3).save(path)
    edited(path, change)
    with pytest.raises(Exception, match=reason):
        keras.models.load_model(path)
    with pytest.raises(asyncload.FormatError, match=reason) as caught:
        await asyncload.load(path)
    await asyncload.aclose()
    assert "Dense" in caught.value.message
    assert "kernel_initializer" not in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("ending", [".keras", ".h5"])
async def test_a_function_of_the_caller_s_own_is_named(tmp_path: Path, ending: str) -> None:
    def shift(x: Any) -> Any:
        return x - 1

    path = tmp_path / f"m{ending}"
    dense(2, activation=shift).save(path)
    with pytest.raises(asyncload.FormatError, match="shift"):
        await asyncload.load(path)
    await asyncload.aclose()


@pytest.mark.parametrize(
    ("saved", "target", "name", "helps"),
    [
        ((2,), (3,), "m.keras", False),  # nothing would be left to load
        ((2, 3), (2, 4), "m.keras", True),
        ((2,), (2, 3), "m.h5", False),  # layers cannot be told apart by position
        ((2, 3), (2, 4), "m.h5", True),
        ((2,), (2, 3), "m.npz", False),
    ],
)
async def test_skip_mismatch_is_advised_where_it_helps(
    tmp_path: Path, saved: tuple[int, ...], target: tuple[int, ...], name: str, helps: bool
) -> None:
    path, model = tmp_path / name, dense(*target)
    if name == "m.npz":
        np.savez(path, unknown=np.zeros(3))
    else:
        dense(*saved).save(path)
    with pytest.raises(asyncload.MismatchError) as caught:
        await asyncload.load_into(model, path)
    assert (ADVICE in caught.value.message) == helps
    if helps:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says what was left as it was
            await asyncload.load_into(model, path, skip_mismatch=True)
        kernel = keras.models.load_model(path, compile=False).layers[0].kernel
        assert np.array_equal(model.layers[0].kernel, kernel)
    await asyncload.aclose()
