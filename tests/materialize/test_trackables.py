"""Objects restored without RestoreV2 equal those that ``tf.train.Checkpoint`` restores."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import trackable_object_graph_pb2

from asyncload.errors import Corrupt, FormatError, MismatchError, TooLarge
from asyncload.materialize import CannotBuildFast
from asyncload.materialize._object_graph import parse_object_graph
from asyncload.materialize.caller import capture_scopes
from asyncload.materialize.trackables import CheckpointAssignment
from asyncload.materialize.whole import WholeBuild
from tests.equality import same_bytes
from tests.materialize.checkpoints import (
    GRAPH,
    ZOO,
    Arrays,
    Counter,
    Dense,
    Halves,
    content,
    keras_model,
    module,
    read,
)

Graph = trackable_object_graph_pb2.TrackableObjectGraph


def save(target: Any, folder: Path) -> str:
    own = isinstance(target, tf.train.Checkpoint)
    path: str = (target if own else tf.train.Checkpoint(target)).save(str(folder / "saved"))
    return path


def assign(target: Any, documents: dict[str, bytes], arrays: Arrays, **options: Any) -> None:
    CheckpointAssignment(target, uri="ckpt-1", scopes=capture_scopes(), **options).assign(
        documents, arrays
    )


def assert_same(left: Arrays, right: Arrays) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        if key.endswith("/table-keys"):  # which come in any order
            values = key.removesuffix("keys") + "values"
            assert pairs(value, left[values]) == pairs(right[key], right[values]), key
        elif value.dtype == object:
            assert value.tolist() == right[key].tolist(), key
        elif not key.endswith("/table-values"):
            assert same_bytes(value, right[key]), key


def pairs(keys: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> dict[str, bytes]:
    return {str(key): value.tobytes() for key, value in zip(keys, values, strict=True)}


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_object_equals_stock(name: str, tmp_path: Path) -> None:
    path = save(ZOO[name](2), tmp_path)
    mine, stock = ZOO[name](0), ZOO[name](1)
    assign(mine, *read(path))
    own = isinstance(stock, tf.train.Checkpoint)
    checkpoint = stock if own else tf.train.Checkpoint(stock)
    checkpoint.restore(path).assert_existing_objects_matched()
    assert_same(content(mine, tmp_path), content(stock, tmp_path))
    if own:
        assert mine.save_counter.numpy() == stock.save_counter.numpy() == 1


def test_no_value_is_copied_and_traces_stay(tmp_path: Path) -> None:
    documents, arrays = read(save(Dense(8, 1), tmp_path))
    dense = Dense(8, 0)
    dense(tf.ones((1, 8)))
    assign(dense, documents, arrays)
    for variable, key in ((dense.w, "w"), (dense.b, "b")):
        array = arrays[f"{key}/.ATTRIBUTES/VARIABLE_VALUE"]
        view = np.asarray(memoryview(variable.read_value()))
        assert view.ctypes.data == array.ctypes.data
    assert dense.__call__.experimental_get_tracing_count() == 1
    assert same_bytes(dense(tf.ones((1, 8))), Dense(8, 1)(tf.ones((1, 8))))
    assert dense.__call__.experimental_get_tracing_count() == 1


def test_training_on_does_not_write_to_the_arrays(tmp_path: Path) -> None:
    documents, arrays = read(save(keras_model(1), tmp_path))
    before = {key: array.tobytes() for key, array in arrays.items()}
    model = keras_model(0)
    assign(model, documents, arrays)
    model.fit(np.ones((8, 3)), np.ones((8, 4)), verbose=0)
    assert {key: array.tobytes() for key, array in arrays.items()} == before


def variants(tensor: Any) -> np.ndarray[Any, Any]:
    """Return the elements of a tensor of variants, each a ``VariantTensorDataProto``."""
    serialized = tf.io.serialize_tensor(tensor).numpy()
    rest = tensor_pb2.TensorProto.FromString(serialized).tensor_content
    lengths = [0] * int(tensor.shape[0])
    for number in range(len(lengths)):
        for shift in range(0, 64, 7):  # a varint
            byte, rest = rest[0], rest[1:]
            lengths[number] |= (byte & 127) << shift
            if byte < 128:
                break
    array = np.empty(len(lengths), dtype=object)
    for number, length in enumerate(lengths):
        array[number], rest = rest[:length], rest[length:]
    return array


def test_an_iterator_resumes(tmp_path: Path) -> None:
    def iterator() -> Any:
        return iter(tf.data.Dataset.range(10))

    saved = iterator()
    for _ in range(4):
        next(saved)
    documents, arrays = read(save(tf.train.Checkpoint(it=saved), tmp_path))
    target = tf.train.Checkpoint(it=iterator())
    # TensorFlow's reader does not hand out variants; this is what the file holds of them.
    state = saved._serialize_to_tensors()["_STATE"]
    arrays["it/.ATTRIBUTES/ITERATOR_STATE"] = variants(state)
    assign(target, documents, arrays)
    assert next(target.it).numpy() == 4


def test_misfits_are_all_named_and_nothing_changes(tmp_path: Path) -> None:
    saved = module(1)
    saved.more = tf.Variable(1.0)
    documents, arrays = read(save(saved, tmp_path))
    arrays["dense/w/.ATTRIBUTES/VARIABLE_VALUE"] = np.zeros((2, 2), "float32")
    arrays["dense/b/.ATTRIBUTES/VARIABLE_VALUE"] = np.zeros(4, "float64")
    del arrays["pair/0/.ATTRIBUTES/VARIABLE_VALUE"]
    target = module(0)
    target.new = tf.Variable([1, 2])
    before = content(target, tmp_path)
    with pytest.raises(MismatchError) as caught:
        assign(target, documents, arrays)
    message = str(caught.value)
    assert message.startswith("ckpt-1: ")
    for part in (
        "dense/w/.ATTRIBUTES/VARIABLE_VALUE: the target has (4, 4) float32, the check",
        "(4, 4) float32, the checkpoint has (2, 2) float32",
        "(4,) float32, the checkpoint has (4,) float64",
        "pair/0/.ATTRIBUTES/VARIABLE_VALUE: pair/0 takes it",
        "new: the target has (2,) int32, the checkpoint has nothing for it",
        "more/.ATTRIBUTES/VARIABLE_VALUE: the checkpoint has () float32",
    ):
        assert part in message
    assert len(message.splitlines()) == 6
    assert_same(content(target, tmp_path), before)


def test_a_tensor_of_which_a_part_would_fit_is_a_misfit(tmp_path: Path) -> None:
    documents, arrays = read(save(ZOO["sharded"](1), tmp_path))
    (key,) = (key for key in arrays if key.startswith("table"))
    arrays[key] = np.zeros((7, 2), "float32")
    with pytest.raises(MismatchError, match=r"has \(6, 2\) float32, the checkpoint has \(7, 2\)"):
        assign(ZOO["sharded"](0), documents, arrays)


def test_partial_restores_what_is_in_both(tmp_path: Path) -> None:
    saved = module(1)
    saved.more = tf.Variable(1.0)
    documents, arrays = read(save(saved, tmp_path))
    target = module(0)
    target.new = tf.Variable([1, 2])
    assign(target, documents, arrays, partial=True)
    assert target.new.numpy().tolist() == [1, 2]
    assert same_bytes(target.dense.w, saved.dense.w)
    arrays["dense/w/.ATTRIBUTES/VARIABLE_VALUE"] = np.zeros((2, 2), "float32")
    with pytest.raises(MismatchError, match="dense/w"):
        assign(target, documents, arrays, partial=True)


def test_an_optimizer_that_is_not_built_says_so(tmp_path: Path) -> None:
    model = keras_model(1)
    documents, arrays = read(save(model, tmp_path))
    fresh = keras.models.clone_model(model)
    fresh.compile("adam", "mse")
    with pytest.raises(MismatchError, match=r"(?s)optimizer\.build\(.*_variables/2"):
        assign(fresh, documents, arrays)
    fresh.optimizer.build(fresh.trainable_variables)
    assign(fresh, documents, arrays)
    for mine, theirs in zip(fresh.variables, model.variables, strict=True):
        assert "seed_generator" in mine.path or same_bytes(mine.numpy(), theirs.numpy())


def test_slots_that_the_optimizer_has_not_made_are_named(tmp_path: Path) -> None:
    documents, arrays = read(save(ZOO["slots"](1), tmp_path))
    optimizer = tf.compat.v1.train.AdamOptimizer()
    target = tf.train.Checkpoint(model=Dense(3, 0), optimizer=optimizer)
    with pytest.raises(MismatchError, match=r"model/w/\.OPTIMIZER_SLOT/optimizer/m/"):
        assign(target, documents, arrays)


Tree = dict[str, Any]
_leaves = st.integers(0, 3)  # which variable; the same one may be in several places
_names = st.sampled_from("abc")
_trees = st.dictionaries(
    _names,
    st.recursive(_leaves, lambda part: st.dictionaries(_names, part, min_size=1, max_size=3)),
    min_size=1,
    max_size=3,
)


def grow(tree: Tree, pool: dict[int, Any], base: int) -> tf.Module:
    module = tf.Module()
    for name, part in tree.items():
        if isinstance(part, dict):
            setattr(module, name, grow(part, pool, base))
        else:
            setattr(module, name, pool.setdefault(part, tf.Variable(base + part)))
    return module


@given(saved=_trees, target=_trees)
@settings(max_examples=40, deadline=None)
def test_what_matches_is_what_matches_for_stock(saved: Tree, target: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(grow(saved, {}, 100), Path(folder))
        documents, arrays = read(path)
        mine: dict[int, Any] = {}
        stock: dict[int, Any] = {}
        tf.train.Checkpoint(grow(target, stock, 0)).restore(path).expect_partial()
        with contextlib.suppress(MismatchError):  # where nothing matches
            assign(grow(target, mine, 0), documents, arrays, partial=True)
        assert {k: v.numpy() for k, v in mine.items()} == {k: v.numpy() for k, v in stock.items()}
        if fits_for_stock(target, path):
            assign(grow(target, {}, 0), documents, arrays)
        else:
            with pytest.raises(MismatchError):
                assign(grow(target, {}, 0), documents, arrays)


def fits_for_stock(target: Tree, path: str) -> bool:
    variables: dict[int, Any] = {}
    root = grow(target, variables, 0)
    status = tf.train.Checkpoint(root).restore(path)
    try:
        status.assert_consumed()
    except AssertionError:
        status.expect_partial()
        return False
    # Stock is content with a variable that met an object without values, and has its old one.
    return all(variable.numpy() >= 100 for variable in variables.values())


def test_a_checkpoint_of_something_else_says_what_was_saved(tmp_path: Path) -> None:
    documents, arrays = read(save(tf.train.Checkpoint(net=Dense(2, 0)), tmp_path))
    for partial in (False, True):
        with pytest.raises(MismatchError, match=r"tf\.train\.Checkpoint\(net=\.\.\.\)"):
            assign(Dense(2, 1), documents, arrays, partial=partial)


def test_a_target_without_values_says_so(tmp_path: Path) -> None:
    documents, arrays = read(save(keras_model(1), tmp_path))
    unbuilt = keras.Sequential([keras.layers.Dense(4)])
    with pytest.raises(MismatchError, match=r"no values yet.*build it first"):
        assign(unbuilt, documents, arrays)


def test_an_object_that_was_saved_without_values_is_missing(tmp_path: Path) -> None:
    documents, arrays = read(save(tf.train.Checkpoint(a=tf.Module(), b=Dense(2, 0)), tmp_path))
    target = tf.train.Checkpoint(a=tf.Variable([1.0]), b=Dense(2, 1))
    with pytest.raises(MismatchError, match=r"a: the target has \(1,\) float32"):
        assign(target, documents, arrays)


def test_the_counter_is_no_nuisance(tmp_path: Path) -> None:
    target = tf.train.Checkpoint(a=Dense(2, 0))
    documents, arrays = read(tf.train.Checkpoint(a=Dense(2, 1)).write(str(tmp_path / "written")))
    assign(target, documents, arrays)
    assert target.save_counter.numpy() == 0
    documents, arrays = read(save(Dense(2, 1), tmp_path))
    mine = Dense(2, 0)
    assign(mine, documents, arrays)
    mine.save_counter = tf.Variable(5, dtype=tf.int64)
    assign(mine, documents, arrays)
    assert mine.save_counter.numpy() == 1
    del arrays["save_counter/.ATTRIBUTES/VARIABLE_VALUE"]
    with pytest.raises(MismatchError, match="save_counter"):
        assign(mine, documents, arrays)


@pytest.mark.parametrize("target", [[1], {"a": tf.Variable(1)}, 7, None])
def test_what_is_not_trackable_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match=r"tf\.train\.Checkpoint"):
        CheckpointAssignment(target, uri="ckpt-1", scopes=capture_scopes())


def test_a_failed_restore_puts_all_old_values_back(tmp_path: Path) -> None:
    class Refuses(Halves):
        refuses = False

        def _restore_from_tensors(self, tensors: dict[str, Any]) -> None:
            if self.refuses:
                raise RuntimeError("not these")
            super()._restore_from_tensors(tensors)

    def target(seed: int) -> tf.train.Checkpoint:
        rest = ZOO["tables"](seed)
        return tf.train.Checkpoint(
            a=Dense(2, seed), b=Counter(seed), c=Halves(seed), d=rest, e=[Refuses(seed)]
        )

    documents, arrays = read(save(target(3), tmp_path))
    mine = target(1)
    before = content(mine, tmp_path)
    mine.e[0].refuses = True
    with pytest.raises(MismatchError, match=r"ckpt-1: restoring e/0 raised RuntimeError: not"):
        assign(mine, documents, arrays)
    assert mine.b.count == 1
    assert_same(
        content(mine, tmp_path), {**before, "save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(0)}
    )


def test_python_state_that_refuses_is_put_back(tmp_path: Path) -> None:
    documents, arrays = read(save(tf.train.Checkpoint(a=Dense(2, 1), n=Counter(-1)), tmp_path))
    mine = tf.train.Checkpoint(a=Dense(2, 0), n=Counter(4))
    with pytest.raises(MismatchError, match="never negative"):
        assign(mine, documents, arrays)
    assert mine.n.count == 4
    assert same_bytes(mine.a.w, Dense(2, 0).w)


def test_what_reads_its_own_files_is_left_to_stock(tmp_path: Path) -> None:
    documents, arrays = read(save(Dense(2, 1), tmp_path))
    graph = Graph.FromString(documents[GRAPH])
    graph.nodes[0].registered_saver.name = "tpu"
    with pytest.raises(CannotBuildFast, match="'tpu'"):
        assign(Dense(2, 0), {GRAPH: graph.SerializeToString()}, arrays)


def test_an_object_that_cannot_say_what_it_takes_is_left_to_stock(tmp_path: Path) -> None:
    class Broken(Halves):
        def _serialize_to_tensors(self) -> dict[str, Any]:
            raise ZeroDivisionError("no idea")

    documents, arrays = read(save(tf.train.Checkpoint(a=Halves(1.0)), tmp_path))
    with pytest.raises(CannotBuildFast, match="ZeroDivisionError: no idea"):
        assign(tf.train.Checkpoint(a=Broken(0.0)), documents, arrays)


@pytest.mark.parametrize("name", ["trackables", "saved_models"])
def test_a_failed_self_test_warns_once_and_falls_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selftest = sys.modules["asyncload.materialize._private._selftest"]

    def fail() -> None:
        raise AssertionError("nothing is as it was")

    documents, arrays = read(save(Dense(2, 1), tmp_path))
    works = getattr(selftest, f"{name}_work")
    monkeypatch.setattr(selftest, f"_try_{name}", fail)
    works.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="nothing is as it was"):
            assert not works()
        with pytest.raises(CannotBuildFast, match="self-test"):
            WholeBuild(uri="model", folder=None, scopes=capture_scopes()).construct()
        if name == "trackables":
            with pytest.raises(CannotBuildFast, match="self-test"):
                assign(Dense(2, 0), documents, arrays)
    finally:
        works.cache_clear()


def test_stock_restores_and_translates(tmp_path: Path) -> None:
    path = save(Dense(2, 1), tmp_path)
    mine = Dense(2, 0)
    CheckpointAssignment(mine, uri="ckpt-1", scopes=capture_scopes()).load_stock(path)
    assert same_bytes(mine.w, Dense(2, 1).w)
    with pytest.raises(MismatchError, match="ckpt-1: TensorFlow"):
        CheckpointAssignment(Dense(3, 0), uri="ckpt-1", scopes=capture_scopes()).load_stock(path)


# --- checkpoints of TensorFlow 1 -------------------------------------------------------


def test_names_match_where_there_is_no_graph(tmp_path: Path) -> None:
    dense = Dense(3, 1)
    saver = tf.compat.v1.train.Saver([dense.w, dense.b])
    path = saver.save(None, str(tmp_path / "old"))
    documents, arrays = read(path)
    assert not documents
    mine, stock = Dense(3, 0), Dense(3, 2)
    assign(mine, documents, arrays)
    tf.train.Checkpoint(stock).restore(path)
    assert_same(content(mine, tmp_path), content(stock, tmp_path))
    arrays["other"] = np.zeros(2)
    mine.more = tf.Variable(1.0, name="more")
    with pytest.raises(MismatchError, match=r"load_weights.*\n.*more: .*\n.*other: ") as caught:
        assign(mine, documents, arrays)
    assert len(str(caught.value).splitlines()) == 3


# --- damaged object graphs -------------------------------------------------------------


def test_circles_of_nodes_end(tmp_path: Path) -> None:
    documents, arrays = read(save(Dense(2, 1), tmp_path))
    graph = Graph.FromString(documents[GRAPH])
    for node in graph.nodes:
        node.children.add(node_id=0, local_name="up")
        node.children.add(node_id=1, local_name="over")
    mine = Dense(2, 0)
    mine.up = mine
    assign(mine, {GRAPH: graph.SerializeToString()}, arrays)
    assert same_bytes(mine.w, Dense(2, 1).w)


@pytest.mark.parametrize("number", [-1, 2, 2**31 - 1])
@pytest.mark.parametrize("where", ["child", "original", "slot"])
def test_a_node_that_does_not_exist_is_corrupt(number: int, where: str) -> None:
    graph = Graph()
    graph.nodes.add()
    graph.nodes.add()
    if where == "child":
        graph.nodes[0].children.add(node_id=number, local_name="a")
    else:
        slot = graph.nodes[0].slot_variables.add(slot_name="m")
        setattr(slot, f"{where if where == 'original' else 'slot'}_variable_node_id", number)
    with pytest.raises(Corrupt, match=rf"ckpt-1: tensor '{GRAPH}': .*2 nodes.*{number}"):
        parse_object_graph(graph.SerializeToString(), uri="ckpt-1")


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 40, b"\x0a", b"\x0a\x05abc", b"hello" * 99])
def test_garbage_is_corrupt(garbage: bytes) -> None:
    with pytest.raises(Corrupt, match="object graph"):
        parse_object_graph(garbage, uri="ckpt-1")


def test_a_huge_graph_is_too_large() -> None:
    with pytest.raises(TooLarge, match="1000001 nodes"):
        parse_object_graph(b"\x0a\x00" * 1_000_001, uri="ckpt-1")
    with pytest.raises(TooLarge, match="bytes"):
        parse_object_graph(bytes((64 << 20) + 1), uri="ckpt-1")


def test_a_graph_made_to_be_slow_is_not() -> None:
    graph = Graph()
    graph.nodes.add()
    graph.nodes.add()
    for number in range(100_000):
        graph.nodes[0].children.add(node_id=1, local_name="w" if not number else f"x{number}")
        graph.nodes[1].attributes.add(
            name="VARIABLE_VALUE", checkpoint_key=f"{number}/.ATTRIBUTES/"
        )
    begin = time.perf_counter()
    with pytest.raises(MismatchError):
        assign(Dense(2, 0), {GRAPH: graph.SerializeToString()}, {})
    assert time.perf_counter() - begin < 10


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_graph_changes_nothing_or_everything(data: st.DataObject) -> None:
    graph = bytearray(_GRAPH)
    for _ in range(data.draw(st.integers(1, 3))):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    mine = Dense(2, 0)
    try:
        assign(mine, {GRAPH: bytes(graph)}, _ARRAYS)
    except (FormatError, MismatchError, CannotBuildFast):
        assert same_bytes(mine.w, _OLD.w)
        assert same_bytes(mine.b, _OLD.b)


_NEW, _OLD = Dense(2, 1), Dense(2, 0)
_ARRAYS = {f"{k}/.ATTRIBUTES/VARIABLE_VALUE": v.numpy() for k, v in (("w", _NEW.w), ("b", _NEW.b))}
_PROTO = Graph()
for _name in ("", "w", "b"):
    _PROTO.nodes.add()
    if _name:
        _PROTO.nodes[0].children.add(node_id=len(_PROTO.nodes) - 1, local_name=_name)
        _PROTO.nodes[-1].attributes.add(
            name="VARIABLE_VALUE", checkpoint_key=f"{_name}/.ATTRIBUTES/VARIABLE_VALUE"
        )
_GRAPH = _PROTO.SerializeToString()
