"""Damaged SavedModels: a typed error that names what is wrong, soon, and nothing left behind."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import asyncload
from asyncload.events import FellBack

SOON = 1.0  # seconds
DATA = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, path = tf.Module(), tmp_path_factory.mktemp("saved") / "model"
    module.kernel = tf.Variable(tf.reshape(tf.range(64.0), [4, 16]))
    module.bias = tf.Variable(tf.ones([16]))
    module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    module.table.insert(["a"], tf.constant([1], tf.int64))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def inner(x: Any) -> Any:
        return tf.matmul(x, module.kernel) + module.bias

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def outer(x: Any) -> Any:
        return tf.nn.relu(inner(x)), module.table.lookup(tf.constant(["a"]))

    tf.saved_model.save(module, path, signatures=outer)
    return path


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


async def fails(
    loader: asyncload.Loader, path: Path, kind: type[Exception], says: str, **options: Any
) -> asyncload.AsyncloadError:
    begin = time.perf_counter()
    with pytest.raises(kind, match=says) as caught:
        await loader.load(path, **options)
    assert time.perf_counter() - begin < SOON
    error = caught.value
    assert isinstance(error, asyncload.AsyncloadError)
    assert "model" in str(error)
    assert loader._resources.budget.held == 0
    return error


def edit(model: Path, change: Callable[[Any], None]) -> None:
    """Change the one graph of a SavedModel."""
    path = model / "saved_model.pb"
    program = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(program.meta_graphs[0])
    path.write_bytes(program.SerializeToString())


async def test_a_damaged_tensor_is_named_with_its_shard(
    model: Path, loader: asyncload.Loader
) -> None:
    manifest = await loader.inspect(model)
    entry = manifest.tensors["kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    data = bytearray((model / DATA).read_bytes())
    data[entry.offset + 5] ^= 1
    (model / DATA).write_bytes(data)
    error = await fails(loader, model, asyncload.Corrupt, "kernel/.ATTRIBUTES/VARIABLE_VALUE")
    assert DATA in str(error)
    served = await loader.load(model, verify=False)
    assert served(np.ones((1, 4), "float32"))["output_0"].shape == (1, 16)


async def test_a_shard_is_missing(model: Path, loader: asyncload.Loader) -> None:
    (model / DATA).unlink()
    await fails(loader, model, asyncload.NotFound, "data-00000-of-00001.*missing")


async def test_a_shard_is_short(model: Path, loader: asyncload.Loader) -> None:
    data = (model / DATA).read_bytes()
    (model / DATA).write_bytes(data[:100])
    await fails(loader, model, asyncload.Corrupt, "truncated")


async def test_the_index_is_missing(model: Path, loader: asyncload.Loader) -> None:
    (model / "variables" / "variables.index").unlink()
    await fails(loader, model, asyncload.NotFound, "variables.index")


async def test_there_are_no_variables(model: Path, loader: asyncload.Loader) -> None:
    shutil.rmtree(model / "variables")
    await fails(loader, model, asyncload.Corrupt, r"variables\.index is missing")


async def test_a_cycle_of_functions(model: Path, loader: asyncload.Loader) -> None:
    def change(graph: Any) -> None:
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        inner = next(f for name, f in functions.items() if "inner" in name)
        outer = next(name for name in functions if "wrapper" in name)
        nodes = [node for each in functions.values() for node in each.node_def]
        call = inner.node_def.add()
        call.CopyFrom(next(node for node in nodes if node.op == "StatefulPartitionedCall"))
        call.name, call.attr["f"].func.name = "again", outer
        del call.input[:]

    edit(model, change)
    await fails(loader, model, asyncload.Corrupt, "calls itself")


async def test_a_function_is_missing(model: Path, loader: asyncload.Loader) -> None:
    def change(graph: Any) -> None:
        library = graph.graph_def.library.function
        for index, function in enumerate(library):
            if "inner" in function.signature.name:
                del library[index]
                return

    edit(model, change)
    await fails(loader, model, asyncload.Corrupt, "no function.*inner")


@pytest.mark.parametrize("number", [-1, 10_000])
async def test_an_object_out_of_range(number: int, model: Path, loader: asyncload.Loader) -> None:
    def change(graph: Any) -> None:
        for concrete in graph.object_graph_def.concrete_functions.values():
            if concrete.bound_inputs:
                concrete.bound_inputs[0] = number

    edit(model, change)
    await fails(loader, model, asyncload.Corrupt, "object")


async def test_a_variable_of_another_shape(model: Path, loader: asyncload.Loader) -> None:
    def change(graph: Any) -> None:
        for node in graph.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.shape.dim[0].size = 5

    edit(model, change)
    error = await fails(loader, model, asyncload.MismatchError, "2 variables")
    for part in ("kernel", "bias", "(5, 16)", "(4, 16)"):
        assert part in str(error)


async def test_an_operation_that_does_not_exist(model: Path, loader: asyncload.Loader) -> None:
    def change(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op == "MatMul":
                    node.op = "NoSuchOperation"

    edit(model, change)
    load = loader.prefetch(model)
    with pytest.raises(asyncload.FormatError, match=r"TensorFlow .* cannot load"):
        await load
    reasons = [event.reason async for event in load.events() if isinstance(event, FellBack)]
    assert any("NoSuchOperation" in reason for reason in reasons)


@pytest.mark.parametrize("tenths", range(10))
async def test_a_truncated_program(tenths: int, model: Path, loader: asyncload.Loader) -> None:
    path = model / "saved_model.pb"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenths // 10])
    await fails(loader, model, asyncload.FormatError, "model")


async def test_a_damaged_program_is_an_error_of_ours_or_harmless(
    model: Path, loader: asyncload.Loader
) -> None:
    path = model / "saved_model.pb"
    content = path.read_bytes()
    rng = random.Random(4)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(damaged)
        with suppress(asyncload.AsyncloadError):
            await loader.load(model)
    assert loader._resources.budget.held == 0


async def test_a_good_one_loads_after_all_that(saved: Path, loader: asyncload.Loader) -> None:
    served = await loader.load(saved)
    x = np.ones((2, 4), "float32")
    stock = tf.saved_model.load(saved).signatures["serving_default"](x=tf.constant(x))
    assert served(x)["output_0"].numpy().tobytes() == stock["output_0"].numpy().tobytes()
