"""SavedModels of every kind that TensorFlow 1 wrote, as TensorFlow Serving's samples are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
Calls = list[tuple[str, dict[str, Any]]]  # signature, inputs; in the order in which they are made

PREDICT = "tensorflow/serving/predict"


@contextmanager
def graph(*, control_flow_v2: bool = False) -> Iterator[Any]:
    """Enter a graph and a session as a program of TensorFlow 1 has them."""
    was = v1.control_flow_v2_enabled()
    (v1.enable_control_flow_v2 if control_flow_v2 else v1.disable_control_flow_v2)()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            v1.set_random_seed(3)
            yield session
    finally:
        (v1.enable_control_flow_v2 if was else v1.disable_control_flow_v2)()


def signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str = PREDICT) -> Any:
    info = v1.saved_model.build_tensor_info
    named = [{name: info(each) for name, each in part.items()} for part in (inputs, outputs)]
    return v1.saved_model.build_signature_def(*named, method)


def write(
    session: Any,
    path: Path,
    signatures: Mapping[str, Any],
    *,
    as_text: bool = False,
    **options: Any,
) -> None:
    session.run(v1.global_variables_initializer())
    builder = v1.saved_model.Builder(str(path))
    builder.add_meta_graph_and_variables(session, ["serve"], dict(signatures), **options)
    builder.save(as_text)


def variable(name: str, value: Any, *, resource: bool) -> Any:
    return v1.get_variable(name, initializer=value, use_resource=resource)


def examples(*values: float) -> Any:
    feature = [tf.train.Feature(float_list=tf.train.FloatList(value=[each])) for each in values]
    made = [tf.train.Features(feature={"x": each}) for each in feature]
    return np.array([tf.train.Example(features=each).SerializeToString() for each in made], object)


# --- TensorFlow Serving's samples ----------------------------------------------------------


def half_plus_two(path: Path, *, resource: bool, as_text: bool = False) -> Calls:
    """saved_model_half_plus_two: several heads, a main op, and an asset whose path it keeps."""
    vocabulary = path.parent / "foo.txt"
    vocabulary.write_text("asset-file-contents")
    with graph() as session:
        a, b, c = (
            variable(name, value, resource=resource)
            for name, value in (("a", 0.5), ("b", 2.0), ("c", 3.0))
        )
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        parsed = v1.io.parse_example(
            serialized,
            {
                "x": v1.FixedLenFeature([1], tf.float32),
                "x2": v1.FixedLenFeature([1], tf.float32, default_value=[0.0]),
            },
        )
        x, x2 = tf.identity(parsed["x"], "x"), tf.identity(parsed["x2"], "x2")
        y, y2, y3 = a * x + b, a * x + c, a * x2 + c
        asset = tf.constant(str(vocabulary))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        kept = variable("filename_tensor", "/tmp/original/foo.txt", resource=resource)
        content = tf.io.read_file(kept.read_value())
        regress, classify = "tensorflow/serving/regress", "tensorflow/serving/classify"
        write(
            session,
            path,
            {
                "serving_default": signature({"x": x}, {"y": y}),
                "regress_x_to_y": signature({"inputs": serialized}, {"outputs": y}, regress),
                "regress_x_to_y2": signature({"inputs": serialized}, {"outputs": y2}, regress),
                "regress_x2_to_y3": signature({"inputs": x2}, {"outputs": y3}, regress),
                "classify_x_to_y": signature({"inputs": serialized}, {"scores": y}, classify),
                "content": signature({}, {"content": content}),
            },
            as_text=as_text,
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.group(v1.assign(kept, asset)),
        )
    vocabulary.unlink()
    given = examples(1.0, 2.5)
    return [
        ("serving_default", {"x": np.array([[2.0], [4.0]], np.float32)}),
        ("regress_x_to_y", {"inputs": given}),
        ("regress_x_to_y2", {"inputs": given}),
        ("regress_x2_to_y3", {"inputs": np.array([[2.0]], np.float32)}),
        ("classify_x_to_y", {"inputs": given}),
        ("content", {}),
    ]


def counter(path: Path, *, resource: bool) -> Calls:
    """saved_model_counter: signatures that change a variable."""
    with graph() as session:
        kept = variable("counter", 0.0, resource=resource)
        delta = v1.placeholder(tf.float32, [], name="delta")
        write(
            session,
            path,
            {
                "get": signature({}, {"output": tf.identity(kept.read_value())}),
                "incr": signature({}, {"output": _changed(v1.assign_add(kept, 1.0))}),
                "by": signature(
                    {"delta": delta}, {"output": _changed(v1.assign_sub(kept, -delta))}
                ),
                "reset": signature({}, {"output": _changed(v1.assign(kept, 0.0))}),
            },
        )
    three = {"delta": np.float32(3.0)}
    return [("incr", {}), ("incr", {}), ("get", {}), ("by", three), ("get", {}), ("reset", {})]


def _changed(assigned: Any) -> Any:
    """Return what a variable is after a change, as `tf.Variable.assign` of TensorFlow 1 does."""
    return tf.identity(assigned)


def convolutions(path: Path, *, resource: bool) -> Calls:
    """Blocks as MobileNet has them: depthwise, normalised, clipped; as an image classifier."""
    rng = np.random.default_rng(1)

    def weights(name: str, *shape: int) -> Any:
        value = rng.normal(size=shape).astype("float32") / 3
        return variable(name, value, resource=resource)

    with graph() as session:
        x = images = v1.placeholder(tf.float32, [None, 16, 16, 3], name="images")
        for block, (channels, size) in enumerate(((3, 8), (8, 16), (16, 24))):
            kernels = weights(f"{block}/depthwise", 3, 3, channels, 1)
            x = tf.nn.depthwise_conv2d(x, kernels, [1, 1, 1, 1], "SAME")
            x = tf.nn.conv2d(x, weights(f"{block}/pointwise", 1, 1, channels, size), 1, "SAME")
            mean, beta = (weights(f"{block}/{name}", size) for name in ("mean", "beta"))
            variance = tf.square(weights(f"{block}/variance", size))
            x = tf.nn.batch_normalization(x, mean, variance, beta, None, 1e-3)
            x = tf.nn.relu6(x)
        x = tf.reduce_mean(x, [1, 2])
        top = tf.nn.top_k(tf.nn.softmax(x), 3)
        outputs = {"scores": top.values, "classes": top.indices}
        write(session, path, {"serving_default": signature({"images": images}, outputs)})
    return [("serving_default", {"images": rng.normal(size=(2, 16, 16, 3)).astype("float32")})]


# --- what else programs had ----------------------------------------------------------------


def tables(path: Path, *, main_op: bool = True) -> Calls:
    """Tables: from an asset, from constants, and one that changes and lies in the checkpoint."""
    vocabulary = path.parent / "words.txt"
    vocabulary.write_text("zero\none\ntwo\n")
    with graph() as session:
        words = v1.placeholder(tf.string, [None], name="words")
        asset = tf.constant(str(vocabulary))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        lines = tf.lookup.TextFileInitializer(
            asset, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
        )
        of_file = v1.lookup.StaticVocabularyTable(lines, 2)
        constants = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64))
        fixed = v1.lookup.StaticHashTable(constants, -1)
        changing = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -7)
        found = {
            "file": of_file.lookup(words),
            "fixed": fixed.lookup(words),
            "changing": changing.lookup(words),
        }
        with tf.control_dependencies([changing.insert(words, tf.ones_like(words, tf.int64) * 5)]):
            size = changing.size()
        session.run(v1.tables_initializer())
        session.run(changing.insert(tf.constant(["a", "x"]), tf.constant([8, 9], tf.int64)))
        variable("unused", 1.0, resource=True)
        write(
            session,
            path,
            {
                "find": signature({"words": words}, found),
                "insert": signature({"words": words}, {"size": size}),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer() if main_op else None,
        )
    vocabulary.unlink()
    words = {"words": np.array([b"two", b"a", b"x", b"none"], object)}
    return [("find", words), ("insert", words), ("find", words)]


def control_flow(path: Path, *, v2: bool) -> Calls:
    """Loops and branches: as nodes of the graph, or as functions of its library."""
    with graph(control_flow_v2=v2) as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        times = v1.placeholder(tf.int32, [], name="times")
        w = variable("w", np.array([[1.0, 0.5], [0.25, 1.0]], np.float32), resource=True)
        _, looped = tf.while_loop(
            lambda step, _: step < times,
            lambda step, y: (step + 1, tf.matmul(y, w) + 1.0),
            [0, x],
            [tf.TensorShape([]), tf.TensorShape([None, 2])],
        )
        branched = tf.cond(times > 2, lambda: looped * 2.0, lambda: looped - w[0])
        outputs = {"looped": looped, "branched": branched}
        write(session, path, {"serving_default": signature({"x": x, "times": times}, outputs)})
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    return [("serving_default", {"x": x, "times": np.int32(times)}) for times in (0, 3)]


def functions(path: Path) -> Calls:
    """A function that the graph calls, with a variable that it is given."""
    with graph() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        w = variable("w", 3.0, resource=True)
        inner = tf.function(lambda y: y * w + 1.0)
        outer = tf.function(lambda y: inner(y) - w)
        write(session, path, {"serving_default": signature({"x": x}, {"y": outer(x) * 2.0})})
    return [("serving_default", {"x": np.array([1.0, 2.0], np.float32)})]


def many_outputs(path: Path) -> Calls:
    """Operations with several outputs, lists of them, and inputs that are no placeholders."""
    with graph() as session:
        x = v1.placeholder(tf.int32, [6], name="x")
        scale = v1.placeholder_with_default(2, [], name="scale")
        values, indices = tf.unique(x)
        left, right = tf.split(x * scale, 2)
        middle = tf.identity(left + right, "middle")
        write(
            session,
            path,
            {
                "all": signature(
                    {"x": x, "scale": scale},
                    {"values": values, "indices": indices, "left": left, "right": right, "x": x},
                ),
                "default": signature({"x": x}, {"y": right}),
                "inside": signature({"middle": middle}, {"y": middle * 3}),
            },
        )
    x = np.array([1, 2, 1, 3, 2, 5], np.int32)
    return [
        ("all", {"x": x, "scale": np.int32(4)}),
        ("default", {"x": x}),
        ("inside", {"middle": np.array([1, 2, 3], np.int32)}),
    ]


def reads_and_changes(path: Path) -> Calls:
    """A variable of TensorFlow 1 that one call changes between two reads."""
    with graph() as session:
        kept = variable("kept", np.array([1.0, 2.0], np.float32), resource=False)
        x = v1.placeholder(tf.float32, [2], name="x")
        before = kept.read_value() + 0.0
        with tf.control_dependencies([before]):
            changed = v1.assign_add(kept, x)
        with tf.control_dependencies([changed]):
            after = kept.read_value() * 10.0
        total = tf.reduce_sum(changed) + tf.reduce_sum(after)
        outputs = {"before": before, "after": after, "total": total}
        write(session, path, {"serving_default": signature({"x": x}, outputs)})
    return [("serving_default", {"x": np.array([1.0, n], np.float32)}) for n in (0.5, 2.0)]


def local_variables(path: Path) -> Calls:
    """Variables that are in no checkpoint, as they are initialised when the model is loaded."""
    with graph() as session:
        kept = v1.get_local_variable("local", initializer=4.0, use_resource=True)
        old = v1.get_local_variable("old", initializer=[1, 2], use_resource=False)
        variable("saved", 1.0, resource=True)
        session.run(v1.local_variables_initializer())
        x = v1.placeholder(tf.float32, [], name="x")
        outputs = {"y": x * kept, "old": old + 1}
        main_op = v1.local_variables_initializer()
        write(session, path, {"serving_default": signature({"x": x}, outputs)}, main_op=main_op)
    return [("serving_default", {"x": np.float32(2.0)})]


def tables_by_name(path: Path) -> Calls:
    """A table of the first kind, which operations find by its name."""
    with graph() as session:
        words = v1.placeholder(tf.string, [None], name="words")
        table = tf.raw_ops.HashTable(
            key_dtype=tf.string, value_dtype=tf.int64, use_node_name_sharing=True
        )
        keys, values = tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)
        filled = tf.raw_ops.InitializeTable(table_handle=table, keys=keys, values=values)
        default = tf.constant(-1, tf.int64)
        found = tf.raw_ops.LookupTableFind(table_handle=table, keys=words, default_value=default)
        sparse = tf.sparse.from_dense(tf.strings.length(words))
        variable("unused", 1.0, resource=True)
        outputs = {"found": found, "values": sparse.values}
        made = {"serving_default": signature({"words": words}, outputs)}
        write(session, path, made, main_op=filled)
    return [("serving_default", {"words": np.array([b"b", b"c"], object)})]


def partitioned(path: Path, *, resource: bool) -> Calls:
    """Variables that are parts of a tensor of the checkpoint, of several columns or rows."""
    with graph() as session:
        ids = v1.placeholder(tf.int64, [None], name="ids")
        with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(2), use_resource=resource):
            embedding = v1.get_variable("e", [6, 2])
        with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(3, axis=1)):
            wide = v1.get_variable("w", [2, 7], use_resource=resource)
        found = tf.nn.embedding_lookup(embedding, ids) @ tf.convert_to_tensor(wide)
        write(session, path, {"serving_default": signature({"ids": ids}, {"found": found})})
    return [("serving_default", {"ids": np.array([0, 5, 3], np.int64)})]


def frozen(path: Path) -> Calls:
    with graph() as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        write(session, path, {"serving_default": signature({"x": x}, {"y": x @ tf.ones((2, 3))})})
    return [("serving_default", {"x": np.array([[1.0, 2.0]], np.float32)})]


def composites(path: Path) -> Calls:
    """Sparse and ragged tensors, which are several tensors each."""
    with graph() as session:
        x = v1.sparse_placeholder(tf.float32, [None, 4], name="x")
        w = variable("w", np.arange(8, dtype="float32").reshape(4, 2), resource=True)
        rows = tf.RaggedTensor.from_row_lengths(tf.range(6.0) * w[1, 1], [2, 0, 4])
        outputs = {"dense": tf.sparse.sparse_dense_matmul(x, w), "twice": x * 2.0, "rows": rows}
        write(session, path, {"serving_default": signature({"x": x}, outputs)})
    parts = {
        "x_indices": np.array([[0, 1], [1, 2]], np.int64),
        "x_values": np.array([1.0, 2.0], np.float32),
        "x_dense_shape": np.array([2, 4], np.int64),
    }
    return [("serving_default", parts)]


def named_signature(path: Path) -> Calls:
    """Initialised by a signature, as estimators were exported; and only one besides."""
    from tensorflow.python.saved_model import builder_impl

    with graph() as session:
        words = v1.placeholder(tf.string, [None], name="words")
        constants = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([1], tf.int64))
        found = v1.lookup.StaticHashTable(constants, -1).lookup(words)
        builder = builder_impl._SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"predict": signature({"words": words}, {"found": found})},
            init_op=v1.tables_initializer(),
            strip_default_attrs=True,
        )
        builder.save()
    return [("predict", {"words": np.array([b"a", b"c"], object)})]


# `tf.saved_model.load` initialises these, a session does not.
UNINITIALISED = "tables without a main op"
NATIVE: dict[str, Callable[[Path], Calls]] = {
    "half plus two, references": lambda path: half_plus_two(path, resource=False),
    "half plus two": lambda path: half_plus_two(path, resource=True),
    "counter, references": lambda path: counter(path, resource=False),
    "counter": lambda path: counter(path, resource=True),
    "convolutions, references": lambda path: convolutions(path, resource=False),
    "convolutions": lambda path: convolutions(path, resource=True),
    "tables": tables,
    UNINITIALISED: lambda path: tables(path, main_op=False),
    "tables by name": tables_by_name,
    "partitioned, references": lambda path: partitioned(path, resource=False),
    "partitioned": lambda path: partitioned(path, resource=True),
    "control flow of nodes": lambda path: control_flow(path, v2=False),
    "control flow of functions": lambda path: control_flow(path, v2=True),
    "functions": functions,
    "many outputs": many_outputs,
    "reads and changes": reads_and_changes,
    "local variables": local_variables,
    "frozen": frozen,
}


def scattered(path: Path) -> Calls:
    """A change of a variable that is no plain assignment."""
    with graph() as session:
        kept = variable("kept", np.zeros(3, "float32"), resource=False)
        x = v1.placeholder(tf.float32, [], name="x")
        changed = tf.identity(v1.scatter_add(kept, [1], [x]))
        write(session, path, {"serving_default": signature({"x": x}, {"y": changed})})
    return [("serving_default", {"x": np.float32(2.0)}) for _ in range(2)]


LEFT_TO_STOCK: dict[str, Callable[[Path], Calls]] = {
    "scattered": scattered,
}


def in_a_session(path: Path, calls: Calls, tags: Any = ("serve",)) -> list[dict[str, Any]]:
    """Return what TensorFlow's own loader for sessions, which Serving uses, gives for calls."""
    results = []
    with tf.Graph().as_default(), v1.Session() as session:
        loaded = v1.saved_model.load(session, list(tags), str(path))
        for name, given in calls:
            definition = loaded.signature_def[name]
            fetches = {key: info.name for key, info in definition.outputs.items()}
            feeds = {definition.inputs[key].name: value for key, value in given.items()}
            results.append(session.run(fetches, feeds))
    return results


def plain(path: Path, factor: float) -> None:
    """A product with a variable."""
    with graph() as session:
        x = v1.placeholder(tf.float32, [], name="x")
        w = variable("w", factor, resource=True)
        write(session, path, {"serving_default": signature({"x": x}, {"y": x * w})})


def large_constants(path: Path) -> Calls:
    """Names of variables that are a large constant, and a weight that is another."""
    with graph() as session:
        x = v1.placeholder(tf.float32, [None, 200], name="x")
        weight = tf.constant(np.arange(200 * 200, dtype="float32").reshape(200, 200) / 1e4)
        names = [f"{number}/" + "deep/" * 300 + "w" for number in range(50)]
        kept = [variable(name, number * 1.0, resource=True) for number, name in enumerate(names)]
        y = tf.matmul(x, weight) + tf.add_n([each.read_value() for each in kept[::10]])
        write(session, path, {"serving_default": signature({"x": x}, {"y": y})})
    return [("serving_default", {"x": np.ones((1, 200), "float32")})]
