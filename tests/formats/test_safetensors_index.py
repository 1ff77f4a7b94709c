"""Sharded safetensors: one manifest over all shards, of what the map names."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as stock_save

from asyncload.errors import AsyncloadError, Corrupt, FormatError, NotFound, TooLarge, Unsafe
from tests.contracts.format_contract import Arrays, FormatContract
from tests.formats.memory import BytesSource, index, index_files, load

NAME = "model.safetensors.index.json"


def sharded(weight_map: Any, **shards: dict[str, Any]) -> dict[str, bytes]:
    files = {NAME: json.dumps({"metadata": {}, "weight_map": weight_map}).encode()}
    return files | {f"{name}.safetensors": stock_save(tensors) for name, tensors in shards.items()}


ONE, TWO = np.arange(3.0), np.arange(4, dtype="int8")
GOOD = sharded(
    {"a": "x.safetensors", "b": "y.safetensors", "c": "x.safetensors"},
    x={"a": ONE, "c": TWO},
    y={"b": TWO},
)


class TestContract(FormatContract):
    format_name = "safetensors-index"
    file_name = NAME

    def make(self, path: Path) -> Arrays:
        for name, content in GOOD.items():
            (path.parent / name).write_bytes(content)
        return {"a": ONE, "b": TWO, "c": TWO}


def test_tensors_come_from_all_shards_in_the_order_of_the_map() -> None:
    found = load(GOOD)
    assert list(found) == ["a", "b", "c"]
    assert np.array_equal(found["a"], ONE)
    assert np.array_equal(found["b"], TWO)
    assert [file.name for file in index(GOOD).files] == ["", "x.safetensors", "y.safetensors"]


async def test_shards_are_opened_once_each_and_side_by_side() -> None:
    source = BytesSource(GOOD)
    await index_files(source)
    assert sorted(reader.name for reader in source.readers) == [
        "",
        "x.safetensors",
        "y.safetensors",
    ]
    # Had one shard waited for the other, the second would have been opened after a read.
    assert [len(reader.reads) for reader in source.readers[1:]] == [1, 1]


def test_a_missing_shard_is_named_with_its_index() -> None:
    files = {name: content for name, content in GOOD.items() if name != "y.safetensors"}
    with pytest.raises(NotFound, match=rf"folder/{NAME}.*'y\.safetensors'"):
        index(files)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b", "a\0b"]
)
def test_a_shard_name_with_a_path_is_unsafe(shard: str) -> None:
    with pytest.raises(Unsafe, match=r"'a'.*path"):
        index(sharded({"a": shard}))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (sharded({"a": "x.safetensors", "b": "x.safetensors"}, x={"a": ONE}), "'b': is not in"),
        (sharded({"a": 3}), "'a'.*not mapped to a file's name"),
        (sharded({"a": ""}), "'a'.*not mapped to a file's name"),
        (sharded([]), "no weight_map"),
        ({NAME: b"{}"}, "no weight_map"),
        ({NAME: b"[]"}, "JSON list"),
        ({NAME: b""}, "no valid JSON"),
        ({NAME: b'{"weight_map": {"a": "x", "a": "y"}}'}, "'a' stands there twice"),
    ],
)
def test_a_map_that_its_shards_contradict_is_corrupt(files: dict[str, bytes], says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        index(files)


def test_a_broken_shard_is_named() -> None:
    with pytest.raises(FormatError, match=r"folder/y\.safetensors.*truncated"):
        index(GOOD | {"y.safetensors": GOOD["y.safetensors"][:-1]})


def test_an_index_beyond_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge, match="limit"):
        index({NAME: bytes(100_000_001)})


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 120))
def test_damage_raises_errors_of_ours(damage: bytes, place: int) -> None:
    content = bytearray(GOOD[NAME])
    content[place : place + len(damage)] = damage
    with suppress(AsyncloadError):
        index(GOOD | {NAME: bytes(content)})
