"""SavedModels loaded in two steps equal what ``tf.saved_model.load`` returns."""

from __future__ import annotations

import gc
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

from asyncload.errors import Corrupt, FormatError, MismatchError, Unsafe
from asyncload.loader._construct import Build
from asyncload.manifest import Manifest
from asyncload.materialize import CannotBuildFast
from asyncload.materialize.caller import capture_scopes
from asyncload.materialize.whole import WholeBuild
from tests.equality import same_bytes
from tests.materialize.checkpoints import GRAPH, read
from tests.materialize.saved_models import ZOO, call, composed, dense, lookups
from tests.materialize.test_model_build import aligned


def build(documents: dict[str, bytes], folder: Path | None = None) -> WholeBuild:
    """Do what comes before the values; ``saved_model.pb`` is taken from the folder, if any."""
    if folder is not None:
        documents = {"saved_model.pb": (folder / "saved_model.pb").read_bytes(), **documents}
    made = WholeBuild(
        uri="model", folder=None if folder is None else str(folder), scopes=capture_scopes()
    )
    each: Build = made
    each.read(documents)
    each.wanted(Manifest("model", "saved-model", (), {}, documents))
    each.construct()
    return made


def load(folder: Path, **changes: Any) -> Any:
    """Load a SavedModel that lies on this machine."""
    documents, arrays = read(str(folder / "variables" / "variables"))
    return build(documents, folder).bind({**arrays, **changes}, {})


def load_remote(folder: Path) -> Any:
    """Load a SavedModel of which only bytes are there."""
    documents, arrays = read(str(folder / "variables" / "variables"))
    documents["saved_model.pb"] = (folder / "saved_model.pb").read_bytes()
    assets = {f"assets/{path.name}": path.read_bytes() for path in (folder / "assets").iterdir()}
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return build(documents).bind(arrays, assets)


def children(thing: Any) -> dict[str, Any]:
    return dict(tf.train.TrackableView.children(thing))


def assert_same_objects(mine: Any, stock: Any) -> None:
    """Assert that two graphs of objects have the same shape, and the same values in it."""
    seen: set[tuple[int, int]] = set()
    queue = [(mine, stock, "root")]
    for one, other, path in queue:
        if (id(one), id(other)) in seen:
            continue
        seen.add((id(one), id(other)))
        assert type(one).__name__ == type(other).__name__, path
        assert sorted(vars(one)) == sorted(vars(other)) if hasattr(one, "__dict__") else True, path
        if isinstance(one, tf.Variable):
            assert_same_variable(one, other, path)
        for mine_function, stock_function in zip(functions(one), functions(other), strict=True):
            assert_same_graph(mine_function.graph, stock_function.graph, path)
        mine_children, stock_children = children(one), children(other)
        assert list(mine_children) == list(stock_children), path
        queue.extend((mine_children[n], stock_children[n], f"{path}.{n}") for n in mine_children)
    assert len({one for one, _ in seen}) == len({other for _, other in seen})


def functions(thing: Any) -> list[Any]:
    if isinstance(thing, ConcreteFunction):
        return [thing]
    return list(getattr(thing, "concrete_functions", ()))


def assert_same_graph(mine: Any, stock: Any, path: str) -> None:
    assert [traits(one) for one in mine.get_operations()] == [
        traits(one) for one in stock.get_operations()
    ], path
    for kind in ("inputs", "outputs", "control_outputs", "internal_captures"):
        names = [[one.name for one in getattr(graph, kind)] for graph in (mine, stock)]
        assert names[0] == names[1], f"{path}: {kind}"
    assert sorted(mine._names_in_use) == sorted(stock._names_in_use), path
    tf.nest.assert_same_structure(mine.structured_outputs, stock.structured_outputs)


def traits(operation: Any) -> tuple[Any, ...]:
    """Return what an operation of a graph is, without the numbers of this one load."""
    proto = str(operation.node_def)
    for called in CALLED.findall(proto):
        proto = proto.replace(called, NUMBER.sub("", called))
    return (
        proto,
        operation.device,
        operation.colocation_groups(),
        [one.name for one in operation.inputs],
        [one.name for one in operation.control_inputs],
        [(one.dtype, one.shape.as_proto().SerializeToString()) for one in operation.outputs],
        operation._gradient_function is None,
        operation._colocation_code_locations,
        None
        if operation._device_code_locations is None
        else [(one.obj, one.filename, one.lineno) for one in operation._device_code_locations],
        operation._get_control_flow_context(),
    )


CALLED = re.compile(r'(?:name|s): "[^"]*"')
NUMBER = re.compile(r"_\d+|\d+")


def assert_same_variable(mine: Any, stock: Any, path: str) -> None:
    for trait in ("dtype", "shape", "name", "trainable", "device", "aggregation"):
        assert getattr(mine, trait) == getattr(stock, trait), f"{path}: {trait}"
    assert_same_result(mine.read_value(), stock.read_value(), path)


def assert_same_result(mine: Any, stock: Any, path: str) -> None:
    tf.nest.assert_same_structure(mine, stock, expand_composites=True)
    flat = [tf.nest.flatten(one, expand_composites=True) for one in (mine, stock)]
    for one, other in zip(*flat, strict=True):
        if one.dtype == tf.string:
            assert np.array_equal(one.numpy(), other.numpy()), path
        else:
            assert same_bytes(one.numpy(), other.numpy()), path


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_saved_model_equals_stock(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    calls = ZOO[name](folder)
    mine, stock = load(folder), tf.saved_model.load(folder)
    assert_same_objects(mine, stock)
    tf.saved_model.save(mine, tmp_path / "again", signatures=getattr(mine, "signatures", None))
    assert_same_calls(mine, stock, calls)
    assert_same_calls(tf.saved_model.load(tmp_path / "again"), tf.saved_model.load(folder), calls)


def assert_same_calls(mine: Any, stock: Any, calls: Any) -> None:
    assert list(getattr(mine, "signatures", ())) == list(getattr(stock, "signatures", ()))
    for (path, one), (_, other) in zip(call(mine, calls), call(stock, calls), strict=True):
        assert_same_result(one, other, path)


def test_it_trains_on_as_stock_does(tmp_path: Path) -> None:
    composed(tmp_path / "model")
    results = []
    for root in (load(tmp_path / "model"), tf.saved_model.load(tmp_path / "model")):
        optimizer = tf.compat.v1.train.AdamOptimizer(0.1)
        variables = _trainable(root)
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(root.inner(tf.ones((2, 4)))) + root.clipped([3.0])[0]
            gradients = tape.gradient(loss, variables)
            assert all(gradient is not None for gradient in gradients)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        results.append([variable.numpy() for variable in variables])
    for one, other in zip(*results, strict=True):
        assert same_bytes(one, other)


def _trainable(root: Any) -> list[Any]:
    first, second = root.layers
    return [first.w, first.b, second.w, second.b, root.named["a"]]


def test_a_node_keeps_its_device_its_colocation_and_its_gradient(tmp_path: Path) -> None:
    composed(tmp_path / "model")
    root = load(tmp_path / "model")
    (placed,) = root.placed.concrete_functions
    assert "/device:CPU:0" in {one.device for one in placed.graph.get_operations()}
    product = placed.graph.get_operation_by_name("mul")
    assert product.colocation_groups() == [b"loc:@add"]
    x = tf.constant([3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = root.clipped(x)
    assert tape.gradient(result, x).numpy().tolist() == [5.0]  # clipped; by type it were 2


def test_training_does_not_write_to_the_arrays(tmp_path: Path) -> None:
    dense(tmp_path / "model")
    documents, arrays = read(str(tmp_path / "model" / "variables" / "variables"))
    root = build(documents, tmp_path / "model").bind(arrays, {})
    array = arrays["w/.ATTRIBUTES/VARIABLE_VALUE"]
    assert np.asarray(memoryview(root.w.read_value())).ctypes.data == array.ctypes.data
    before = array.tobytes()
    root.w.assign_add(tf.ones((4, 4)))
    assert array.tobytes() == before


def test_assets_live_as_long_as_the_object(tmp_path: Path) -> None:
    calls = lookups(tmp_path / "model")
    stock = tf.saved_model.load(tmp_path / "model")
    expected = dict(call(stock, calls))
    root = load_remote(tmp_path / "model")
    path = Path(root.file.asset_path.numpy().decode())
    assert path.read_text() == "zero\none\ntwo\n"
    for name, result in call(root, calls):
        assert_same_result(result, expected[name], name)
    tf.saved_model.save(root, tmp_path / "again")
    assert_same_result(
        tf.saved_model.load(tmp_path / "again").find(*calls["find"])[0], expected["find"][0], "find"
    )
    del root
    gc.collect()
    assert not path.exists()
    assert not path.parent.parent.exists()


def test_assets_live_as_long_as_what_stock_loaded(tmp_path: Path) -> None:
    calls = lookups(tmp_path / "model")
    root = WholeBuild(uri="s3://bucket/model", folder=None, scopes=capture_scopes()).load_stock(
        str(tmp_path / "model")
    )
    shutil.rmtree(tmp_path / "model")
    path = Path(root.file.asset_path.numpy().decode())
    assert [name for name, _ in call(root, calls)] == ["find", "insert"]
    assert sorted(one.name for one in path.parent.parent.iterdir() if one.is_dir()) == ["assets"]
    del root
    gc.collect()
    assert not path.parent.parent.exists()


def test_without_assets_nothing_stays_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    calls = dense(tmp_path / "model")
    root = load_remote(tmp_path / "model")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert dict(call(root, calls))["__call__"].shape == (3, 4)


def test_an_asset_that_would_leave_its_folder_is_refused(tmp_path: Path) -> None:
    dense(tmp_path / "model")
    documents, arrays = read(str(tmp_path / "model" / "variables" / "variables"))
    documents["saved_model.pb"] = (tmp_path / "model" / "saved_model.pb").read_bytes()
    made = build(documents)
    with pytest.raises(Unsafe, match=r"'assets/\.\./\.\./x'"):
        made.bind(arrays, {"assets/../../x": b""})


def test_misfits_are_all_named(tmp_path: Path) -> None:
    dense(tmp_path / "model")
    with pytest.raises(MismatchError) as caught:
        load(
            tmp_path / "model",
            **{
                "w/.ATTRIBUTES/VARIABLE_VALUE": aligned(np.zeros((2, 2), "float32")),
                "b/.ATTRIBUTES/VARIABLE_VALUE": aligned(np.zeros(4, "int32")),
            },
        )
    assert "(4, 4) float32, the checkpoint has (2, 2) float32" in str(caught.value)
    assert "(4,) float32, the checkpoint has (4,) int32" in str(caught.value)


def test_damaged_documents(tmp_path: Path) -> None:
    dense(tmp_path / "model")
    documents, _ = read(str(tmp_path / "model" / "variables" / "variables"))
    content = (tmp_path / "model" / "saved_model.pb").read_bytes()
    with pytest.raises(CannotBuildFast, match="no object graph"):
        build({"saved_model.pb": content})
    with pytest.raises(Corrupt, match="object graph"):
        build({"saved_model.pb": content, GRAPH: b"\xff\xff"})
    for broken in (content[:-200], b"", b"\xff" * 100):
        with pytest.raises(Corrupt, match=r"holds no graph|damaged"):
            build({**documents, "saved_model.pb": broken})


def test_a_circle_of_functions_is_left_to_stock_which_says_so(tmp_path: Path) -> None:
    composed(tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    library = proto.meta_graphs[0].graph_def.library
    for function in library.function:
        node = function.node_def.add(name="again", op="PartitionedCall")
        node.attr["f"].func.name = function.signature.name
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CannotBuildFast, match="cyclic"):
        load(tmp_path / "model")
    with pytest.raises(FormatError, match=r"model: TensorFlow .* cannot load.*cyclic"):
        WholeBuild(uri="model", folder=None, scopes=capture_scopes()).load_stock(
            str(tmp_path / "model")
        )


def test_a_saved_model_of_tensorflow_1_is_left_to_stock(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        v = tf.compat.v1.get_variable("v", initializer=2.0, use_resource=True)
        session.run(v.initializer)
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": x * v})
    with pytest.raises(CannotBuildFast, match="no object graph"):
        load(folder)
    with pytest.raises(CannotBuildFast, match="TensorFlow 1"):
        build({GRAPH: b"\x0a\x00"}, folder)
    root = WholeBuild(uri="model", folder=str(folder), scopes=capture_scopes()).load_stock(
        str(folder / "saved_model.pb")
    )
    assert root.signatures["serving_default"](x=tf.constant([3.0]))["y"].numpy().tolist() == [6.0]


def test_other_threads_load_as_stock_meanwhile(tmp_path: Path) -> None:
    calls = dense(tmp_path / "model")
    results: list[Any] = []
    done = threading.Event()

    def elsewhere() -> None:
        while not done.is_set():
            results.append(dict(call(tf.saved_model.load(tmp_path / "model"), calls)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        mine = [dict(call(load(tmp_path / "model"), calls)) for _ in range(3)]
    finally:
        done.set()
        thread.join()
    for result in results:
        assert_same_result(result["__call__"], mine[0]["__call__"], "__call__")
