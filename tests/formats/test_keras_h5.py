"""Legacy HDF5 files: their documents, and attributes that are not what they should be."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
import time
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

import asyncload
from asyncload.errors import AsyncloadError, Corrupt, FormatError, TooLarge, Unsafe
from asyncload.formats import _hdf5_heap, _hdf5_names, _hdf5_window
from tests.contracts.format_contract import Arrays, FormatContract, indexed
from tests.formats.memory import index, load


@functools.cache
def saved() -> bytes:
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dropout(0.5, name="none"),
            keras.layers.Dense(2, name="second"),
        ],
        name="m",
    )
    model.compile(keras.optimizers.SGD(name="sgd"), keras.losses.MeanSquaredError())
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/m.h5")
        return Path(folder, "m.h5").read_bytes()


def save(path: Path) -> None:
    path.write_bytes(saved())


class TestContract(FormatContract):
    format_name = "keras-h5"
    file_name = "m.h5"

    def make(self, path: Path) -> Arrays:
        save(path)
        found: Arrays = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: np.asarray(item[()])})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        return found


async def documents(path: Path) -> dict[str, Any]:
    async with indexed(path) as (manifest, _):
        assert manifest.format == "keras-h5"
        return {name: text.decode() for name, text in manifest.documents.items()}


async def order(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((await documents(path))["weight_names"])
    return parsed


async def test_documents_of_a_model(tmp_path: Path) -> None:
    save(tmp_path / "m.h5")
    found = await documents(tmp_path / "m.h5")
    assert found["keras_version"] == keras.__version__
    assert found["backend"] == "tensorflow"
    assert json.loads(found["model_config"])["class_name"] == "Sequential"
    assert json.loads(found["training_config"])["optimizer_config"]["class_name"] == "SGD"
    listed = json.loads(found["weight_names"])
    assert listed["layers"] == [
        ["first", ["model_weights/first/m/first/kernel", "model_weights/first/m/first/bias"]],
        ["none", []],
        ["second", ["model_weights/second/m/second/kernel", "model_weights/second/m/second/bias"]],
    ]
    assert listed["top"] == []
    assert listed["optimizer"] == [
        "optimizer_weights/sgd/iteration",
        "optimizer_weights/sgd/learning_rate",
    ]


def keras_2_weights(path: Path) -> None:
    """Write weights as Keras 2 did: at the root, names as fixed-length bytes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"dense", b"drop"])
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.9.0"
        group = file.create_group("dense")
        group.attrs["weight_names"] = np.array([b"dense/kernel:0", b"dense/bias:0"])
        group["dense/kernel:0"] = np.ones((3, 2), "f4")
        group["dense/bias:0"] = np.zeros(2, "f4")
        file.create_group("drop").attrs["weight_names"] = np.array([], "S1")


async def test_documents_of_weights_alone(tmp_path: Path) -> None:
    keras_2_weights(tmp_path / "w.h5")
    found = await documents(tmp_path / "w.h5")
    assert found["keras_version"] == "2.9.0"
    assert "model_config" not in found
    assert json.loads(found["weight_names"]) == {
        "layers": [["dense", ["dense/dense/kernel:0", "dense/dense/bias:0"]], ["drop", []]],
        "top": None,
        "optimizer": None,
    }


async def test_names_split_over_attributes(tmp_path: Path) -> None:
    names = [f"{number:04}" + "x" * 100 for number in range(800)]
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for number, part in enumerate(np.array_split(np.array(names, "S"), 3)):
            file.attrs[f"layer_names{number}"] = part
        for name in names:
            file.create_group(name).attrs["weight_names"] = []
    assert [name for name, _ in (await order(tmp_path / "w.h5"))["layers"]] == names


async def test_an_hdf5_file_of_another_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["note"] = np.arange(3)
        file["layers/dense/vars/0"] = np.ones(3)
    async with indexed(tmp_path / "w.h5") as (manifest, _):
        assert manifest.format == "keras-weights"
        assert not manifest.documents


# --- what a file should not have -----------------------------------------------------------


async def refused(
    tmp_path: Path, change: Callable[[h5py.File], None], kind: type[FormatError], words: str
) -> AsyncloadError:
    path = tmp_path / "m.h5"
    save(path)
    with h5py.File(path, "r+") as file:
        change(file)
    begin = time.perf_counter()
    with pytest.raises(kind, match=words) as caught:
        async with indexed(path):
            pass
    assert time.perf_counter() - begin < 1
    assert type(caught.value) is kind
    assert "m.h5" in str(caught.value)
    return caught.value


def set_attribute(where: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[where].attrs[name]
        file[where].attrs[name] = value

    return change


WRONG: list[Any] = [
    3,
    1.5,
    np.arange(4),
    h5py.Empty("S3"),
    np.zeros((2, 2), "S3"),
    np.zeros(2, [("a", "i4"), ("b", "S2")]),
    np.array([(1, 2)], [("a", "i4"), ("b", "i4")])[0],
]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("/", "model_config"),
        ("/", "training_config"),
        ("/", "keras_version"),
        ("/model_weights", "layer_names"),
        ("/model_weights/first", "weight_names"),
        ("/optimizer_weights", "weight_names"),
    ],
)
async def test_attributes_of_other_types(where: str, name: str, value: Any, tmp_path: Path) -> None:
    await refused(tmp_path, set_attribute(where, name, value), Corrupt, name)


@pytest.mark.parametrize(
    ("where", "name", "value", "words"),
    [
        ("/model_weights", "layer_names", ["first", "gone"], "'gone'"),
        ("/model_weights", "layer_names", ["first", ""], "''"),
        ("/model_weights", "layer_names", ["first/../second"], "first/../second"),
        ("/model_weights", "layer_names", ["."], "group '.'"),
        ("/model_weights", "layer_names", ["/first"], "'/first'"),
        ("/model_weights/first", "weight_names", ["m/first/gone"], "first/m/first/gone"),
        ("/model_weights/first", "weight_names", ["../second/m/second/bias"], "not there"),
        ("/model_weights/first", "weight_names", ["m/first"], "not there"),
        ("/model_weights/top_level_model_weights", "weight_names", ["x"], "not there"),
        ("/optimizer_weights", "weight_names", ["SGD/gone"], "SGD/gone"),
        ("/model_weights", "layer_names", np.array([b"\xff\xfe"]), "not UTF-8"),
    ],
)
async def test_names_that_point_nowhere(
    where: str, name: str, value: Any, words: str, tmp_path: Path
) -> None:
    await refused(tmp_path, set_attribute(where, name, value), Corrupt, words)


@pytest.mark.parametrize("missing", ["model_weights", "model_weights/first"])
async def test_groups_that_are_missing(missing: str, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file[missing]

    await refused(tmp_path, change, Corrupt, missing.rpartition("/")[2])


async def test_a_dataset_in_a_groups_place(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["model_weights/first"]
        file["model_weights/first"] = np.ones(3)

    await refused(tmp_path, change, Corrupt, "HDF5")


@pytest.mark.parametrize("name", ["model_weights", "model_weights/first", "optimizer_weights"])
@pytest.mark.parametrize("kind", [h5py.SoftLink, h5py.ExternalLink])
async def test_links_are_not_followed(name: str, kind: Any, tmp_path: Path) -> None:
    save(tmp_path / "secret.h5")

    def change(file: h5py.File) -> None:
        file.move(name, "elsewhere")
        outside = [str(tmp_path / "secret.h5")] if kind is h5py.ExternalLink else []
        file[name] = kind(*outside, f"/{name}" if outside else "/elsewhere")

    await refused(tmp_path, change, Unsafe, "link")


async def test_more_names_than_any_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hdf5_names, "_NAME_LIMIT", 1000)
    monkeypatch.setattr(_hdf5_names, "_NAMES_FOR_EACH", 0)
    names = np.array([b"first"] * 1001)
    change = set_attribute("/model_weights", "layer_names", names)
    await refused(tmp_path, change, TooLarge, "at most 1000")


async def test_one_group_named_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hdf5_names, "_NAME_LIMIT", 2000)
    monkeypatch.setattr(_hdf5_names, "_NAMES_FOR_EACH", 0)

    def change(file: h5py.File) -> None:
        set_attribute("/model_weights", "layer_names", np.array([b"first"] * 1000))(file)
        set_attribute("/model_weights/first", "weight_names", np.array([b"x"] * 1000))(file)

    await refused(tmp_path, change, TooLarge, "at most 2000")


@pytest.mark.parametrize("fixed", [False, True])
async def test_longer_texts_than_any_model_has(
    fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hdf5_names, "_TEXT_LIMIT", 20_000)
    monkeypatch.setattr(_hdf5_names, "_TEXT_SHARE", 1 << 60)
    value = np.bytes_(b"x" * 30_000) if fixed else "x" * 30_000
    change = set_attribute("/", "model_config", value)
    await refused(tmp_path, change, TooLarge, "'model_config'; at most 20000")


async def test_a_heap_that_leads_to_itself(tmp_path: Path) -> None:
    """HDF5 walks it for ever."""
    content = bytearray(saved())
    start = content.index(b"GCOL")
    free = start + 16
    while int.from_bytes(content[free : free + 2], "little"):
        size = int.from_bytes(content[free + 8 : free + 16], "little")
        free += 16 + (size + 7) // 8 * 8
    content[free + 8 : free + 16] = bytes(8)
    path = tmp_path / "m.h5"
    path.write_bytes(content)
    with pytest.raises(Corrupt, match=r"heap.*takes 0 bytes"):
        async with indexed(path):
            pass


async def test_more_text_in_one_place_than_any_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hdf5_window, "_HEAP_LIMIT", 1000)

    def nothing(file: h5py.File) -> None:
        del file

    await refused(tmp_path, nothing, TooLarge, "at most 1000")


@given(st.binary(max_size=200))
def test_any_heap_is_walked_to_its_end_or_refused(content: bytes) -> None:
    with suppress(ValueError):
        _hdf5_heap.check_collection(b"GCOL" + content)


@given(st.lists(st.integers(0, 50), max_size=10), st.integers(17, 40))
def test_heaps_as_hdf5_writes_them(sizes: list[int], free: int) -> None:
    objects = [
        struct.pack("<HH4xQ", number + 1, 1, size) + bytes((size + 7) // 8 * 8)
        for number, size in enumerate(sizes)
    ]
    space = struct.pack("<HH4xQ", 0, 0, free) + bytes(free - 16)
    _hdf5_heap.check_collection(bytes(16) + b"".join(objects) + space)
    with pytest.raises(ValueError, match="takes"):
        _hdf5_heap.check_collection(bytes(16) + b"".join(objects) + space[:-1])


def test_a_file_that_no_other_process_can_open() -> None:
    """Its bytes are sent to the worker; what is found in them is the same."""
    manifest = index({"m.h5": saved()})
    assert manifest.format == "keras-h5"
    assert "model_config" in manifest.documents
    assert load({"m.h5": saved()})["model_weights/first/m/first/kernel"].shape == (3, 4)
    start = saved().index(b"GCOL") + 24
    with pytest.raises(Corrupt, match="global heap"):
        index({"m.h5": saved()[:start] + b"\xff" * 8 + saved()[start + 8 :]})


async def test_a_worker_process_reads_the_attributes(tmp_path: Path) -> None:
    save(tmp_path / "m.h5")
    async with asyncload.Loader(processes=1) as loader:
        manifest = await loader.inspect(tmp_path / "m.h5")
    async with indexed(tmp_path / "m.h5") as (found, _):
        assert manifest == found
