"""SavedModels whose signatures have everything that signatures can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.materialize import saved_models
from tests.materialize.checkpoints import tables
from tests.materialize.saved_models import LateResource

Inputs = dict[str, dict[str, Any]]  # signature -> its inputs by name


def _spec(*shape: int | None, dtype: Any = tf.float32, name: str | None = None) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def _save(module: Any, folder: Path, **signatures: Any) -> None:
    tf.saved_model.save(module, folder, signatures=signatures)


def exported(folder: Path) -> Inputs:
    saved_models.exported(folder)
    x = np.random.default_rng(3).random((2, 8, 8, 3), "float32")
    name = next(iter(tf.saved_model.load(folder).signatures["serve"].structured_input_signature[1]))
    return {"serve": {name: tf.constant(x)}, "serving_default": {name: tf.constant(x)}}


def composed(folder: Path) -> Inputs:
    """Control flow, variables in lists and dicts, of several dtypes, texts among them."""
    saved_models.composed(folder)
    x = tf.random.stateless_normal((3, 4), (1, 2))
    return {"inner": {"x": x}, "control": {"x": x, "times": tf.constant(3)}}


def dtypes(folder: Path) -> Inputs:
    """Variables and inputs of small and odd dtypes."""
    module = tf.Module()
    module.eight = tf.Variable(tf.constant([[1, -2], [3, 4]], tf.int8))
    module.brain = tf.Variable(tf.constant([0.1, 2.5], tf.bfloat16))
    module.half = tf.Variable(tf.constant([0.1], tf.float16))
    module.complex = tf.Variable(tf.constant([1 + 2j], tf.complex64))
    module.flag = tf.Variable([True, False])
    module.scalar = tf.Variable(tf.constant(7, tf.int64))
    module.empty = tf.Variable(tf.zeros([0, 3]))
    module.brained = tf.constant([1.5, 2.5], tf.bfloat16)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[_spec(None, 2, dtype=tf.int8), _spec(None, 2, dtype=tf.bfloat16)]
    )
    def run(x: Any, y: Any) -> dict[str, Any]:
        return {
            "eight": x * module.eight[0],
            "brain": y * module.brain + module.brained,
            "half": module.half * 2,
            "complex": module.complex,
            "flag": tf.logical_not(module.flag),
            "scalar": module.scalar + 1,
            "empty": module.empty,
        }

    _save(module, folder, serving_default=run)
    return {
        "serving_default": {
            "x": tf.constant([[3, 5]], tf.int8),
            "y": tf.constant([[1.0, 3.0]], tf.bfloat16),
        }
    }


def structures(folder: Path) -> Inputs:
    """Ragged and sparse inputs and outputs, lists of outputs, unknown shapes, texts."""
    module = tf.Module()

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.RaggedTensorSpec([None, None], tf.float32),
            tf.SparseTensorSpec([None, 4], tf.float32),
        ]
    )
    def composite(r: Any, s: Any) -> dict[str, Any]:
        return {"ragged": r * 2.0, "sparse": s * 3.0, "sum": tf.reduce_sum(r, 1)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32), _spec(None, dtype=tf.string)])  # type: ignore[untyped-decorator]
    def several(x: Any, words: Any) -> Any:
        return x + 1.0, tf.strings.upper(words), tf.strings.length(words)

    _save(module, folder, composite=composite, several=several)
    names = tf.saved_model.load(folder).signatures["composite"]._arg_keywords
    ragged = tf.ragged.constant([[1.0, 2.0], [], [3.0]])
    sparse = tf.sparse.from_dense(tf.constant([[0.0, 1.0, 0.0, 2.0]]))
    parts = tf.nest.flatten([ragged, sparse], expand_composites=True)
    words = tf.constant(["ab", "", "cdé"])
    return {
        "composite": dict(zip(names, parts, strict=True)),
        "several": {"x": tf.constant([[1.0, 2.0]]), "words": words},
    }


def lookups(folder: Path) -> Inputs:
    """Tables of every kind, assets, and resources that two signatures share."""
    module = tables(2)
    vocabulary = folder.parent / "words.txt"
    vocabulary.write_text("zero\none\ntwo\n")
    lines = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
    )
    module.vocabulary = tf.lookup.StaticVocabularyTable(lines, 2)
    module.dense = tf.lookup.experimental.DenseHashTable(tf.int64, tf.int64, -1, -1, -2)
    module.dense.insert(tf.constant([5], tf.int64), tf.constant([6], tf.int64))
    module.file = tf.saved_model.Asset(str(vocabulary))
    module.variable = tf.Variable([1.0, 2.0])
    module.resource = LateResource(module.variable)
    module.resource._initialize()

    @tf.function(input_signature=[_spec(None, dtype=tf.string)])  # type: ignore[untyped-decorator]
    def find(words: Any) -> dict[str, Any]:
        return {
            "vocabulary": module.vocabulary.lookup(words),
            "fixed": module.fixed.lookup(words),
            "table": module.table.lookup(words),
            "dense": module.dense.lookup(tf.constant([5, 7], tf.int64)),
            "file": tf.io.read_file(module.file.asset_path),
            "late": tf.raw_ops.ReadVariableOp(
                resource=module.resource.resource_handle, dtype=tf.float32
            ),
        }

    @tf.function(input_signature=[_spec(None, dtype=tf.string)])  # type: ignore[untyped-decorator]
    def insert(words: Any) -> Any:
        module.table.insert(words, tf.ones_like(words, tf.int64) * 9)
        return module.table.size()

    _save(module, folder, find=find, insert=insert)
    vocabulary.unlink()
    words = tf.constant(["two", "a", "k2", "none"])
    return {"find": {"words": words}, "insert": {"words": words}}


def text(folder: Path) -> Inputs:
    """A Keras model that takes texts, with its vocabulary in a table."""
    layers = keras.layers
    vectorize = layers.TextVectorization(output_sequence_length=4, vocabulary=["red", "blue"])
    inputs = keras.Input((), dtype="string")
    outputs = layers.Dense(2)(layers.Flatten()(layers.Embedding(8, 3)(vectorize(inputs))))
    keras.Model(inputs, outputs).export(folder, verbose=False)
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    return {"serving_default": {name: tf.constant(["red blue", "green red red"])}}


def stateful(folder: Path) -> Inputs:
    """A signature that writes to a variable, and one that draws random numbers."""
    module = tf.Module()
    module.count = tf.Variable(0)
    module.generator = tf.random.Generator.from_seed(3)

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def increment() -> Any:
        return module.count.assign_add(1)

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def draw() -> Any:
        return module.generator.normal([3])

    _save(module, folder, increment=increment, draw=draw)
    return {"increment": {}, "draw": {}}


def constant(folder: Path) -> Inputs:
    """A program without variables."""
    module = tf.Module()
    large = tf.constant(np.arange(5000, dtype="float32"))

    @tf.function(input_signature=[_spec(name="x")])  # type: ignore[untyped-decorator]
    def run(x: Any) -> Any:
        return x + tf.reduce_sum(large)

    module.run = run
    _save(module, folder, serving_default=run)
    return {"serving_default": {"x": tf.constant(2.0)}}


def quantized(folder: Path) -> Inputs:
    """A Keras model with int8 weights."""
    layers = keras.layers
    dense = [layers.Dense(4, "relu"), layers.Dense(2)]
    model = keras.Sequential([keras.Input((8,)), *dense])
    for layer in dense:
        layer.quantize("int8")
    model.export(folder, verbose=False)
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    return {"serving_default": {name: tf.random.stateless_normal((3, 8), (4, 5))}}


ZOO: dict[str, Callable[[Path], Inputs]] = {
    "exported": exported,
    "composed": composed,
    "dtypes": dtypes,
    "structures": structures,
    "lookups": lookups,
    "text": text,
    "stateful": stateful,
    "constant": constant,
    "quantized": quantized,
}


def written_by_tensorflow_1(folder: Path) -> Inputs:
    """A SavedModel without an object graph, in a graph of its own."""
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        weight = v1.get_variable("w", initializer=tf.constant([[2.0], [3.0]]))
        y = tf.matmul(x, weight)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})
    return {"serving_default": {"x": tf.constant([[1.0, 2.0]])}}


class OwnState(tf.saved_model.experimental.TrackableResource):
    """A table that saves its keys and values by names of its own."""

    def _create_resource(self) -> Any:
        return tf.raw_ops.MutableHashTableV2(
            key_dtype=tf.int64, value_dtype=tf.float32, use_node_name_sharing=True
        )

    def put(self, keys: Any, values: Any) -> Any:
        return tf.raw_ops.LookupTableImportV2(
            table_handle=self.resource_handle, keys=keys, values=values
        )

    def get(self, keys: Any) -> Any:
        return tf.raw_ops.LookupTableFindV2(
            table_handle=self.resource_handle, keys=keys, default_value=tf.constant(-1.0)
        )

    def _serialize_to_tensors(self) -> dict[str, Any]:
        found = tf.raw_ops.LookupTableExportV2(
            table_handle=self.resource_handle, Tkeys=tf.int64, Tvalues=tf.float32
        )
        return {"first": found.keys, "second": found.values}

    def _restore_from_tensors(self, restored: dict[str, Any]) -> Any:
        return self.put(restored["first"], restored["second"])


def with_own_state(folder: Path) -> Inputs:
    """A signature that needs a resource with state in a form of its own, and a variable."""
    module = tf.Module()
    module.resource = OwnState()
    module.resource.put(tf.constant([1, 2], tf.int64), tf.constant([3.0, 4.0]))
    module.variable = tf.Variable([10.0, 20.0])

    @tf.function(input_signature=[_spec(name="x")])  # type: ignore[untyped-decorator]
    def run(x: Any) -> Any:
        return module.resource.get(tf.constant([2, 9], tf.int64)) * x + module.variable

    module.run = run
    _save(module, folder, serving_default=run)
    return {"serving_default": {"x": tf.constant(2.0)}}
