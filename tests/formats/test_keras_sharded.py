"""Sharded Keras weights: one manifest over all shards, which are where the map has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.errors import AsyncloadError, Corrupt, FormatError, NotFound, TooLarge, Unsafe
from asyncload.formats import _keras_sharded, _shards
from asyncload.interfaces import Bounds
from tests.contracts.format_contract import Arrays, FormatContract, indexed

SHARD = 560 / (1 << 30)  # GiB, as Keras takes it; so small that one layer lies in two shards


def model() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, name="a"), keras.layers.Dense(4, name="b")]
    )


def save(path: Path) -> Any:
    made = model()
    made.save_weights(path, max_shard_size=SHARD)
    return made


class TestContract(FormatContract):
    format_name = "keras-sharded"
    file_name = "m.weights.json"

    def make(self, path: Path) -> Arrays:
        first, second = save(path).layers
        named = {"layers/dense": first, "layers/dense_1": second}
        return {
            f"{name}/vars/{number}": np.asarray(variable)
            for name, layer in named.items()
            for number, variable in enumerate(layer.weights)
        }


def weight_map(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["weight_map"]
    return found


async def refused(
    path: Path, kind: type[AsyncloadError], words: str, tensor: str | None = None
) -> None:
    with pytest.raises(kind, match=words) as caught:
        async with indexed(path):
            pass
    assert type(caught.value) is kind
    assert caught.value.tensor == tensor
    assert path.name in str(caught.value) or "00000" in str(caught.value)


async def test_a_layer_in_two_shards(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    save(path)
    assert len(weight_map(path)["/layers/dense/vars"]) == 2
    assert len(list(tmp_path.glob("m_*.weights.h5"))) > 1
    async with indexed(path) as (manifest, _):
        assert len({entry.file for entry in manifest.tensors.values()}) > 1
        assert {file.name for file in manifest.files[1:]} == {
            shard.name for shard in tmp_path.glob("m_*.weights.h5")
        }


@pytest.mark.parametrize("name", ["../m_00000.weights.h5", "/etc/passwd", "a\\b", "..", "a\0b"])
async def test_shards_elsewhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    path.write_text(json.dumps({"weight_map": {"/layers/a/vars": name}}))
    await refused(path, Unsafe, "path in it", "/layers/a/vars")


@pytest.mark.parametrize("named", [None, 3, "", [], [""], ["a", 3], {"a": "b"}])
async def test_what_is_no_name(named: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    path.write_text(json.dumps({"weight_map": {"/layers/a/vars": named}}))
    await refused(path, Corrupt, "not mapped to the names", "/layers/a/vars")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"metadata": {}}', "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ("[]", "JSON list"),
        ('{"weight_map": {"/a/vars": "x", "/a/vars": "y"}}', "twice"),
        ('{"weight_map": {}, "weight_map": {}}', "twice"),
        ('{"weight_map": {"/a/vars": ["x", "x"]}}', "twice"),
    ],
)
async def test_maps_that_are_none(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    path.write_text(text)
    await refused(path, Corrupt, words, "/a/vars" if "[" in text and "/a" in text else None)


async def test_a_shard_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    save(path)
    (tmp_path / "m_00000.weights.h5").unlink()
    await refused(path, NotFound, "m_00000.*missing")


async def test_a_shard_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    save(path)
    shard = tmp_path / "m_00000.weights.h5"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(FormatError, match="m_00000"):
        async with indexed(path):
            pass


def _move(found: dict[str, Any]) -> None:
    found["/layers/dense_1/vars"] = "m_00000.weights.h5"  # a name alone will do


def _invent(found: dict[str, Any]) -> None:
    found["/layers/dense_7/vars"] = "m_00000.weights.h5"


@pytest.mark.parametrize("change", [_move, _invent])
async def test_tensors_elsewhere_than_the_map_has_them(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    path = tmp_path / "m.weights.json"
    save(path)
    found = weight_map(path)
    change(found)
    path.write_text(json.dumps({"weight_map": found}))
    with pytest.raises(Corrupt, match="where the map has it") as caught:
        async with indexed(path):
            pass
    assert "layers/dense" in str(caught.value.tensor)


async def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    for name in ("a", "b"):
        with h5py.File(tmp_path / name, "w") as file:
            file["layers/dense/vars/0"] = np.ones(3)
    path.write_text(json.dumps({"weight_map": {"/layers/dense/vars": ["a", "b"]}}))
    await refused(path, Corrupt, "in another shard", "layers/dense/vars/0")


async def test_a_map_past_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shards, "_MAP_LIMIT", 10)
    path = tmp_path / "m.weights.json"
    save(path)
    await refused(path, TooLarge, "the limit is 10")


NAMES = st.sampled_from(["a", "b", "..", "x/y", "", "\0"])
MAPS = st.dictionaries(
    st.sampled_from(["/a/vars", "/b/vars", "/vars"]),
    st.one_of(NAMES, st.lists(NAMES, max_size=3), st.integers(), st.none()),
)


@given(MAPS | st.none() | st.lists(st.integers()) | st.text(), st.text())
def test_any_map_is_plain_names_or_an_error(weight_map: Any, more: str) -> None:
    text = json.dumps({"weight_map": weight_map, more: more}).encode()
    with suppress(FormatError):
        for path, names in _keras_sharded.parse_map(text, Bounds(), "m").items():
            assert path in weight_map
            assert names
            assert set(names) <= {"a", "b"}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_or_an_error(text: bytes) -> None:
    with suppress(FormatError):
        _keras_sharded.parse_map(text, Bounds(), "m")
