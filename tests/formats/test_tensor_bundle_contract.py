"""Checkpoints keep the contract of formats, whichever way the URI names them."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from asyncload.formats import PREFIXES, detect_folder
from asyncload.interfaces import Format
from tests.contracts.format_contract import Arrays, FormatContract
from tests.formats import checkpoints


def write(prefix: Path) -> Arrays:
    prefix.parent.mkdir(exist_ok=True)
    whole, slices = checkpoints.parts_of_everything()
    tensors = {"scalar": tf.constant(2.5), **checkpoints.every_string()}
    first = [(name, "", value) for name, value in tensors.items()]
    checkpoints.save_shards(prefix, first + slices[::2], slices[1::2])
    found = checkpoints.stock(prefix)
    assert all(found[name].tobytes() == array.tobytes() for name, array in whole.items())
    return found


def files(prefix: str) -> tuple[str, ...]:
    return (
        f"{prefix}.index",
        f"{prefix}.data-00000-of-00002",
        f"{prefix}.data-00001-of-00002",
    )


class TestByPrefix(FormatContract):
    format_name = "checkpoint"
    file_name = "ckpt-12"
    index_files = files("ckpt-12")[:1]
    all_files = files("ckpt-12")

    def make(self, path: Path) -> Arrays:
        return write(path)

    def detected(self, name: str) -> Format:
        return dict(PREFIXES)[".index"]


class TestByIndex(FormatContract):
    format_name = "checkpoint"
    file_name = "ckpt-12.index"
    all_files = files("ckpt-12")

    def make(self, path: Path) -> Arrays:
        return write(path.with_suffix(""))


class TestByFolder(FormatContract):
    format_name = "checkpoint"
    file_name = "run"
    index_files = ("run/checkpoint", "run/ckpt-12.index")
    all_files = files("run/ckpt-12")

    def make(self, path: Path) -> Arrays:
        path.mkdir()
        found = write(path / "ckpt-12")
        checkpoints.state(path, "ckpt-12", "ckpt-11")
        return found

    def detected(self, name: str) -> Format:
        return detect_folder([name, "checkpoint"], uri=name)[1]
