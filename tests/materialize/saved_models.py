"""SavedModels of every kind, saved by TensorFlow and Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.materialize.checkpoints import Dense, tables

Calls = dict[str, Any]  # path of a function -> arguments


def _spec(*shape: int | None, dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def dense(folder: Path) -> Calls:
    module = Dense(4, 1)
    module(tf.ones((2, 4)))
    signature = module.__call__.get_concrete_function(_spec(None, 4))
    tf.saved_model.save(module, folder, signatures=signature)
    return {"__call__": [tf.ones((3, 4))], "signatures.serving_default": [tf.ones((2, 4))]}


class Composed(tf.Module):
    """Variables in lists and dicts, shared ones, several dtypes, functions that call functions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [Dense(4, 1), Dense(4, 2)]
        self.named = {"a": tf.Variable([1.0, 2.0, 3.0, 4.0]), "b": self.layers[0]}
        self.pair = (tf.Variable(3), tf.Variable(tf.constant(0.5, tf.bfloat16)))
        self.any = tf.Variable([1.0, 2.0, 3.0], shape=tf.TensorShape(None))
        self.words = tf.Variable([b"x", b"yy"])
        self.constant = tf.constant([9.0])

    @tf.function(input_signature=[_spec(None, 4)])  # type: ignore[untyped-decorator]
    def inner(self, x: Any) -> Any:
        for layer in self.layers:
            x = tf.nn.relu(layer(x))
        return x * self.named["a"] + self.constant

    @tf.function(input_signature=[_spec(None, 4), _spec(dtype=tf.int32)])  # type: ignore[untyped-decorator]
    def control(self, x: Any, times: Any) -> dict[str, Any]:
        for _ in tf.range(times):
            if tf.reduce_sum(x) > 100.0:
                x = x / 2.0
            else:
                x = self.inner(x) + tf.cast(self.pair[1], tf.float32)
        return {"x": x, "words": self.words, "any": self.any[:2]}

    @tf.function(input_signature=[_spec(None)])  # type: ignore[untyped-decorator]
    def clipped(self, x: Any) -> Any:
        return _clip(x * self.named["a"][0])

    @tf.function(input_signature=[_spec(None)])  # type: ignore[untyped-decorator]
    def placed(self, x: Any) -> Any:
        with tf.device("/CPU:0"):
            y = x + 1.0
        with tf.compat.v1.colocate_with(y), tf.control_dependencies([y]):
            return y * 3.0


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _clip(x: Any) -> Any:
    return x * 2.0, lambda upstream: tf.clip_by_value(upstream * 7.0, -1.0, 5.0)


def composed(folder: Path) -> Calls:
    module = Composed()
    signatures = {"inner": module.inner, "control": module.control}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, folder, signatures=signatures, options=options)
    x = tf.ones((2, 4))
    return {
        "inner": [x],
        "control": [x, tf.constant(3)],
        "clipped": [tf.constant([1.0, -2.0])],
        "placed": [tf.constant([1.0, -2.0])],
        "signatures.inner": [x],
        "signatures.control": {"x": x, "times": tf.constant(2)},
    }


def lookups(folder: Path) -> Calls:
    module = tables(2)
    vocabulary = folder.parent / "words.txt"
    vocabulary.write_text("zero\none\ntwo\n")
    lines = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
    )
    module.vocabulary = tf.lookup.StaticVocabularyTable(lines, 2)
    module.file = tf.saved_model.Asset(str(vocabulary))

    @tf.function(input_signature=[_spec(None, dtype=tf.string)])  # type: ignore[untyped-decorator]
    def find(words: Any) -> Any:
        return (
            module.vocabulary.lookup(words),
            module.fixed.lookup(words),
            module.table.lookup(words),
            tf.io.read_file(module.file.asset_path),
        )

    @tf.function(input_signature=[_spec(None, dtype=tf.string)])  # type: ignore[untyped-decorator]
    def insert(words: Any) -> Any:
        module.table.insert(words, tf.ones_like(words, tf.int64))
        return module.table.size()

    module.find, module.insert = find, insert
    tf.saved_model.save(module, folder)
    vocabulary.unlink()
    words = tf.constant(["two", "a", "k2", "none"])
    return {"find": [words], "insert": [words]}


class LateResource(tf.saved_model.experimental.TrackableResource):
    """A resource whose initialiser reads a variable, which therefore has to be there first."""

    def __init__(self, variable: Any) -> None:
        super().__init__()
        self.variable = variable

    def _create_resource(self) -> Any:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], shared_name="late")

    def _initialize(self) -> None:
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=self.variable * 3.0)


def late(folder: Path) -> Calls:
    module = tf.Module()
    module.variable = tf.Variable([1.0, 2.0])
    module.resource = LateResource(module.variable)
    module.resource._initialize()

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def read() -> Any:
        return tf.raw_ops.ReadVariableOp(resource=module.resource.resource_handle, dtype=tf.float32)

    module.read = read
    tf.saved_model.save(module, folder)
    return {"read": []}


def structures(folder: Path) -> Calls:
    """Functions that take ragged and nested things, and are traced several times."""
    module = tf.Module()
    module.scale = tf.Variable(2.0)

    @tf.function  # type: ignore[untyped-decorator]
    def scale(x: Any, training: bool = False, *, factor: Any = None) -> Any:
        x = tf.nest.map_structure(lambda part: part * module.scale, x)
        return x if not training else tf.nest.map_structure(lambda part: part + 1.0, x)

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.float32)])  # type: ignore[untyped-decorator]
    def ragged(x: Any) -> Any:
        return x * module.scale, tf.reduce_sum(x, axis=1)

    module.scale_all, module.ragged = scale, ragged
    one = tf.constant([1.0])
    for training in (False, True):
        scale({"a": one, "b": (one, [one])}, training)
        scale.get_concrete_function(_spec(None), training)
    tf.saved_model.save(module, folder)
    return {
        "scale_all": [{"a": one, "b": (one, [one])}, True],
        "ragged": [tf.ragged.constant([[1.0], [2.0, 3.0]])],
    }


def _model() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="swish")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def exported(folder: Path) -> Calls:
    _model().export(folder, verbose=False)
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32"))
    return {"serve": [x], "signatures.serving_default": [x]}


def trained(folder: Path) -> Calls:
    """A compiled Keras model saved with its optimizer, as TensorFlow saves any object."""
    model = _model()
    model.compile("adam", "mse")
    model.fit(np.ones((4, 8, 8, 3)), np.ones((4, 2)), verbose=0)
    module = tf.Module()
    module.model, module.step = model, tf.Variable(7, dtype=tf.int64)
    module.run = tf.function(
        lambda x: model(x, training=False), input_signature=[_spec(None, 8, 8, 3)]
    )
    tf.saved_model.save(module, folder)
    return {"run": [tf.ones((2, 8, 8, 3))]}


ZOO: dict[str, Callable[[Path], Calls]] = {
    "dense": dense,
    "composed": composed,
    "lookups": lookups,
    "late": late,
    "structures": structures,
    "exported": exported,
    "trained": trained,
}


def call(root: Any, calls: Calls) -> Iterator[tuple[str, Any]]:
    """Call functions of a loaded SavedModel, and yield each result."""
    for path, arguments in calls.items():
        first, _, name = path.partition(".")
        function = root.signatures[name] if name else getattr(root, first)
        if name and isinstance(arguments, list):
            (only,) = function.structured_input_signature[1]
            arguments = {only: arguments[0]}
        yield path, function(**arguments) if name else function(*arguments)
