"""A map of shards says which tensors there are: what else lies in a shard is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

import asyncload
from tests.servers.web import Web

Write = Callable[[Path], str]

ONE, TWO, OTHER = np.arange(3.0), np.arange(4.0), np.full(4, 9.0)


def write_safetensors(folder: Path) -> str:
    save_file({"a": ONE, "unlisted": OTHER, "b": OTHER}, folder / "1.safetensors")
    save_file({"b": TWO}, folder / "2.safetensors")
    names = {"b": "2.safetensors", "a": "1.safetensors"}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return "m.safetensors.index.json"


def write_keras(folder: Path) -> str:
    with h5py.File(folder / "1.weights.h5", "w") as file:
        file["a/vars/0"], file["unlisted/vars/0"], file["b/vars/0"] = ONE, OTHER, OTHER
    with h5py.File(folder / "2.weights.h5", "w") as file:
        file["b/vars/0"] = TWO
    names = {"/b/vars": "2.weights.h5", "/a/vars": "1.weights.h5"}
    (folder / "m.weights.json").write_text(json.dumps({"weight_map": names}))
    return "m.weights.json"


def assert_selected(weights: asyncload.Weights) -> None:
    (second, two), (first, one) = weights.items()
    assert (first.partition("/")[0], second.partition("/")[0]) == ("a", "b")
    assert np.array_equal(one, ONE)
    assert np.array_equal(two, TWO)


@pytest.mark.parametrize("write", [write_safetensors, write_keras])
async def test_what_the_map_does_not_list_is_left_alone(write: Write, tmp_path: Path) -> None:
    assert_selected(await asyncload.load_weights(tmp_path / write(tmp_path)))


@pytest.mark.parametrize("write", [write_safetensors, write_keras])
async def test_so_it_is_where_shards_are_read_while_they_are_indexed(
    write: Write, tmp_path: Path, web: Web
) -> None:
    name = write(tmp_path)
    for path in tmp_path.iterdir():
        web.put(f"{tmp_path.name}/{path.name}", path.read_bytes())
    assert_selected(await asyncload.load_weights(f"{web.url}/{tmp_path.name}/{name}"))
