"""Objects that are saved to checkpoints, and checkpoints as arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.sharded_variable import ShardedVariable

from tests.materialize.test_model_build import aligned

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
Arrays = dict[str, np.ndarray[Any, Any]]


def read(prefix: str) -> tuple[dict[str, bytes], Arrays]:
    """Read a checkpoint with TensorFlow: documents, and arrays by key."""
    reader = tf.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    documents: dict[str, bytes] = {}
    arrays: Arrays = {}
    for key, dtype in dtypes.items():
        if key == GRAPH:
            documents[key] = reader.get_tensor(key)
        elif dtype != tf.variant:
            value = reader.get_tensor(key)
            string = dtype == tf.string
            arrays[key] = np.array(value, dtype=object) if string else aligned(np.asarray(value))
    return documents, arrays


def content(target: Any, folder: Path) -> Arrays:
    """Return what an object would write to a checkpoint."""
    own = isinstance(target, tf.train.Checkpoint)
    checkpoint = target if own else tf.train.Checkpoint(target)
    return read(checkpoint.write(str(folder / "content")))[1]


class Dense(tf.Module):
    def __init__(self, size: int, seed: int) -> None:
        super().__init__(name="dense")
        rng = np.random.default_rng(seed)
        self.w = tf.Variable(rng.normal(size=(size, size)).astype("float32"), name="w")
        self.b = tf.Variable(rng.normal(size=size).astype("float32"), name="b")

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        return x @ self.w + self.b


class Counter(tf.train.experimental.PythonState):
    """Python state in a checkpoint."""

    def __init__(self, count: int) -> None:
        self.count = count

    def serialize(self) -> bytes:
        return str(self.count).encode()

    def deserialize(self, value: bytes) -> None:
        if value == b"-1":
            raise ValueError("counts are never negative")
        self.count = int(value)


class Halves(tf.__internal__.tracking.Trackable):
    """An object that saves itself as two tensors."""

    def __init__(self, value: float) -> None:
        self.value = [tf.constant(value), tf.constant([value] * 3)]

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"first": self.value[0], "second": self.value[1]}

    def _restore_from_tensors(self, tensors: dict[str, Any]) -> None:
        self.value = [tensors["first"], tensors["second"]]


class Old(tf.__internal__.tracking.Trackable):
    """An object that saves itself as objects did before TensorFlow 2.10."""

    def __init__(self, value: float) -> None:
        self.variable = tf.Variable(value)

    def _gather_saveables_for_checkpoint(self) -> dict[str, Any]:
        return {"value": self.variable}


def module(seed: int) -> tf.Module:
    root = tf.Module()
    root.dense = Dense(4, seed)
    root.also = root.dense  # shared
    root.items = [Dense(2, seed + 1), {"a": tf.Variable(float(seed)), "b/c": Dense(3, seed + 2)}]
    root.pair = (tf.Variable(seed), tf.Variable([seed, 2], dtype=tf.int8))
    return root


def dtypes(seed: int) -> tf.Module:
    root = tf.Module()
    rng = np.random.default_rng(seed)
    kinds = (tf.bfloat16, tf.float16, tf.float64, tf.int64, tf.uint8, tf.bool, tf.complex64)
    root.numbers = [
        tf.Variable(tf.cast(rng.integers(0, 2, (3, 2)) * (seed + 1), kind)) for kind in kinds
    ]
    root.strings = tf.Variable([[b"a\0b" * seed, b""], [b"x" * 1000, b"\xff"]])
    root.no_words = tf.Variable(tf.constant([], tf.string))
    root.ends = tf.Variable([b"x\0\0", bytes([seed])])
    root.small = [
        tf.Variable(
            tf.constant(rng.integers(0, 3, (3, 5)).astype(tf.as_dtype(kind).as_numpy_dtype))
        )
        for kind in ("float8_e5m2", "float8_e4m3fn", "int4", "uint16")
    ]
    root.text = tf.Variable(f"seed {seed}")
    root.scalar = tf.Variable(float(seed))
    root.nothing = tf.Variable(tf.zeros((0, 3)))
    root.any = tf.Variable(np.full(seed + 1, seed, "float32"), shape=tf.TensorShape(None))
    root.rows = tf.Variable(np.full((seed + 1, 2), seed, "float32"), shape=[None, 2])
    return root


def tables(seed: int) -> tf.Module:
    root = tf.Module()
    root.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    root.dense = tf.lookup.experimental.DenseHashTable(
        tf.int64, tf.float32, 0.0, -1, -2, initial_num_buckets=8
    )
    for number in range(seed + 3):
        root.table.insert(tf.constant([f"k{number * seed}"]), tf.constant([number], tf.int64))
        root.dense.insert(tf.constant([number], tf.int64), tf.constant([seed * 0.5]))
    keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2], tf.string, tf.int64)
    root.fixed = tf.lookup.StaticHashTable(keys, -1)
    return root


def others(seed: int) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(
        generator=tf.random.Generator.from_seed(seed),
        count=Counter(seed + 5),
        halves=Halves(float(seed)),
        old=Old(float(seed)),
        step=tf.Variable(seed, dtype=tf.int64),
    )


def sharded(seed: int) -> tf.Module:
    """Return a variable in three parts, which a checkpoint holds as one tensor."""
    root = tf.Module()
    parts = [tf.Variable(np.full((rows, 2), seed + rows, "float32")) for rows in (3, 2, 1)]
    root.table = ShardedVariable(parts, name="table")
    return root


def keras_model(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    model.compile("adam", "mse")
    model.fit(np.ones((8, 3)) * seed, np.ones((8, 4)), verbose=0, epochs=seed + 1)
    return model


def training(seed: int) -> tf.train.Checkpoint:
    model = keras_model(seed)
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, epoch=tf.Variable(seed))


def wrapped(seed: int) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(Dense(3, seed), extra=tf.Variable(seed))


def slots(seed: int) -> tf.train.Checkpoint:
    """Return an optimizer that keeps slot variables, as those of Keras 2 did too."""
    dense = Dense(3, seed)
    optimizer = tf.compat.v1.train.AdamOptimizer(0.1 * (seed + 1))
    for _ in range(seed + 1):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(dense(tf.ones((1, 3))) ** 2)
        gradients = tape.gradient(loss, dense.trainable_variables)
        optimizer.apply_gradients(zip(gradients, dense.trainable_variables, strict=True))
    return tf.train.Checkpoint(model=dense, optimizer=optimizer)


ZOO: dict[str, Callable[[int], Any]] = {
    "module": module,
    "dtypes": dtypes,
    "tables": tables,
    "others": others,
    "keras": keras_model,
    "sharded": sharded,
    "training": training,
    "wrapped": wrapped,
    "slots": slots,
}
