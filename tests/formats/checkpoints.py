"""Checkpoints of every kind, written by TensorFlow itself; and what it reads from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[Any]

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")

_QUANTISED = {
    tf.qint8: tf.int8,
    tf.quint8: tf.uint8,
    tf.qint16: tf.int16,
    tf.quint16: tf.uint16,
    tf.qint32: tf.int32,
}
_PLAIN = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
]
_EXTENSIONS = [
    "bfloat16",
    "float4_e2m1fn",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "int2",
    "int4",
    "uint2",
    "uint4",
]


def stock(prefix: Path) -> dict[str, Array]:
    """Return what TensorFlow reads, but for the object graph."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name != GRAPH]
    found = {}
    for name in names:
        value = reader.get_tensor(name)
        found[name] = np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
    return found


def save(prefix: Path, tensors: Mapping[str, Any]) -> Path:
    """Write tensors by name, as tf.compat.v1.train.Saver does."""
    save_slices(prefix, [(name, "", value) for name, value in tensors.items()])
    return prefix


def save_slices(prefix: Path, slices: list[tuple[str, str, Any]]) -> Path:
    """Write (name, what of it as ``"4 6 0,2:-"`` or ``""`` for all, value)."""
    names, specs, values = zip(*slices, strict=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(names),
        shape_and_slices=list(specs),
        tensors=[tf.convert_to_tensor(value) for value in values],
    )
    return prefix


def save_shards(prefix: Path, *shards: list[tuple[str, str, Any]]) -> Path:
    """Write several data files, as a distributed program does."""
    parts = [f"{prefix}_part{number}" for number in range(len(shards))]
    for part, slices in zip(parts, shards, strict=True):
        save_slices(Path(part), slices)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix))
    return prefix


def every_dtype() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {}
    for name in _PLAIN:
        tensors[f"plain/{name}"] = (rng.random((3, 5)) * 100).astype(name)
    for name in _EXTENSIONS:
        dtype = getattr(ml_dtypes, name)
        tensors[f"extension/{name}"] = rng.integers(0, 2, (4, 3)).astype(dtype)
    for quantised, plain in _QUANTISED.items():
        content = tf.constant(rng.integers(0, 99, 7), plain)
        tensors[f"quantised/{quantised.name}"] = tf.bitcast(content, quantised)
    tensors["bool"] = rng.random(9) < 0.5
    return tensors


def every_shape() -> dict[str, Any]:
    return {
        "scalar": np.float32(2.5),
        "empty": np.empty((0, 3), np.float32),
        "empty inside": np.empty((2, 0, 3), np.int64),
        "one": np.ones((1, 1, 1), np.int8),
        "näme/with ünicode": np.arange(5),
        "large": np.arange(100_000, dtype=np.float32),
    }


def every_string() -> dict[str, Any]:
    return {
        "strings/scalar": tf.constant(b"one"),
        "strings/unicode": tf.constant(["grüße", "", "日本", "a\0b"]),
        "strings/2d": tf.constant([["a", "bb", ""], ["x" * 300, "\\", "\n"]]),
        "strings/none": tf.zeros((0, 4), tf.string),
        "strings/empty": tf.constant([b""]),
        "strings/bytes": tf.constant([bytes(range(256)), b"\xff" * 20_000]),
        "strings/many": tf.constant([str(number) * (number % 5) for number in range(3_000)]),
    }


def parts_of_everything() -> tuple[dict[str, Array], list[tuple[str, str, Any]]]:
    """Return partitioned variables: whole, and as slices to save."""
    rng = np.random.default_rng(4)
    rows = rng.random((7, 6), np.float32)
    columns = rng.integers(0, 99, (5, 9, 2))
    grid = rng.random((4, 4)).astype(ml_dtypes.bfloat16)
    irregular = rng.random((3, 3))
    middle = rng.random((1, 6, 2), np.float32)
    cuts: list[tuple[str, str, Array, list[tuple[str, Any]]]] = [
        ("rows", "7 6 ", rows, [("0,3:-", np.s_[:3]), ("3,3:-", np.s_[3:6]), ("6,1:-", np.s_[6:])]),
        (
            "columns",
            "5 9 2 ",
            columns,
            [("-:0,4:-", np.s_[:, :4]), ("-:4,5:-", np.s_[:, 4:])],
        ),
        (
            "grid",
            "4 4 ",
            grid,
            [(f"{i},2:{j},2", np.s_[i : i + 2, j : j + 2]) for i in (0, 2) for j in (0, 2)],
        ),
        (
            "irregular",
            "3 3 ",
            irregular,
            [
                ("0,2:0,1", np.s_[:2, :1]),
                ("2,1:0,2", np.s_[2:, :2]),
                ("1,2:2,1", np.s_[1:, 2:]),
                ("0,1:1,2", np.s_[:1, 1:]),
                ("1,1:1,1", np.s_[1:2, 1:2]),
            ],
        ),
        (
            "middle",
            "1 6 2 ",
            middle,
            [("-:2,4:-", np.s_[:, 2:]), ("-:0,2:-", np.s_[:, :2])],
        ),
        ("one part", "7 6 ", rows, [("0,7:0,6", np.s_[:])]),
    ]
    whole = {name: array for name, _, array, _ in cuts}
    slices = [
        (name, shape + spec, array[place])
        for name, shape, array, places in cuts
        for spec, place in places
    ]
    return whole, slices


def state(folder: Path, latest: str, *others: str) -> None:
    """Write the ``checkpoint`` file of a folder, as TensorFlow does."""
    tf.compat.v1.train.update_checkpoint_state(
        str(folder), latest, all_model_checkpoint_paths=[*others, latest]
    )
