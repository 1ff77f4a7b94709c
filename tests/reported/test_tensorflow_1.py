"""What TensorFlow 1 wrote is served from functions of its graph, as TensorFlow itself serves it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import asyncload
from asyncload.events import FellBack, TensorReady
from asyncload.sources import forget_memory, put_memory
from tests.reported.graph_models import (
    LEFT_TO_STOCK,
    NATIVE,
    UNINITIALISED,
    Calls,
    composites,
    in_a_session,
    large_constants,
    named_signature,
    plain,
)


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(processes=1) as made:
        yield made


async def load(uri: Any, **options: Any) -> tuple[asyncload.Signatures, list[str]]:
    task = asyncload.prefetch(uri, **options)
    served = await task
    return served, [event.reason async for event in task.events() if isinstance(event, FellBack)]


def assert_answers(served: asyncload.Signatures, calls: Calls, expected: list[Any]) -> None:
    for (name, given), wanted in zip(calls, expected, strict=True):
        found = served[name](**given)
        assert sorted(found) == sorted(wanted)
        for key, value in wanted.items():
            mine, theirs = np.asarray(found[key]), np.asarray(value)
            assert mine.dtype == theirs.dtype or mine.dtype.hasobject, (name, key)
            assert mine.tolist() == theirs.tolist(), (name, key)


def answers_of_stock(path: Path, calls: Calls) -> tuple[Any, list[Any]]:
    """Return the signatures of ``tf.saved_model.load``, and what they give."""
    stock = tf.saved_model.load(path).signatures
    answers = []
    for name, given in calls:
        answer = stock[name](**{key: tf.constant(value) for key, value in given.items()})
        # Copied at once, as what it returns may be the memory of a variable.
        answers.append({key: np.array(value) for key, value in answer.items()})
    return stock, answers


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.either_loop
async def test_signatures_answer_as_stock(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    calls = NATIVE[kind](path)
    served, fallbacks = await load(path)
    assert fallbacks == []
    if kind != UNINITIALISED:
        assert_answers(served, calls, in_a_session(path, calls))
    stock, answers = answers_of_stock(path, calls)
    again, _ = await load(path)
    assert set(again) == set(stock)
    assert_answers(again, calls, answers)
    for name, signature in again.items():
        assert signature.inputs == stock[name].structured_input_signature[1]
        for key, spec in signature.outputs.items():
            theirs = stock[name].structured_outputs[key]
            assert (spec.shape, spec.dtype) == (theirs.shape, theirs.dtype)


@pytest.mark.parametrize("kind", LEFT_TO_STOCK)
@pytest.mark.either_loop
async def test_what_is_not_known_is_left_to_stock(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    calls = LEFT_TO_STOCK[kind](path)
    served, fallbacks = await load(path)
    assert len(fallbacks) == 1
    assert_answers(served, calls, in_a_session(path, calls))


async def test_tables_and_variables_go_with_the_last_signature(tmp_path: Path) -> None:
    calls = NATIVE["tables"](tmp_path / "model")
    served, _ = await load(tmp_path / "model")
    find = served["find"]
    bound = cast(Any, find._run)._bound
    handles = [bound.tensor(number) for number in bound.plan.resources]
    del served, bound
    await asyncio.sleep(0)  # the load itself lets go of it
    gc.collect()
    assert find(**calls[0][1])
    assert all(int(tf.raw_ops.LookupTableSizeV2(table_handle=each)) for each in handles)
    del find
    gc.collect()
    for handle in handles:
        with pytest.raises(tf.errors.NotFoundError):
            tf.raw_ops.LookupTableSizeV2(table_handle=handle)


async def test_only_what_a_signature_needs_is_read(tmp_path: Path) -> None:
    NATIVE["tables"](tmp_path / "model")
    task = asyncload.prefetch(tmp_path / "model", signatures=["find"])
    await task
    read = [event.name async for event in task.events() if isinstance(event, TensorReady)]
    assert read
    assert "unused" not in read
    assert "unused" in await asyncload.load_weights(tmp_path / "model")


async def test_from_elsewhere_with_its_assets(tmp_path: Path) -> None:
    path = tmp_path / "model"
    calls = NATIVE["tables"](path)
    files = {str(each.relative_to(path)): each for each in path.rglob("*") if each.is_file()}
    try:
        uri = put_memory("graph", {name: file.read_bytes() for name, file in files.items()})
        served, fallbacks = await load(uri, trusted=True)
        assert fallbacks == []
        assert_answers(served, calls, in_a_session(path, calls))
    finally:
        forget_memory("graph")


async def test_a_variable_without_a_value(tmp_path: Path) -> None:
    NATIVE["convolutions"](tmp_path / "model")
    checkpoint = tmp_path / "model" / "variables"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("other", initializer=1.0)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(checkpoint / "variables"))
    with pytest.raises(asyncload.Corrupt, match=r"has no '0/beta'"):
        await load(tmp_path / "model")


async def test_constants_that_are_large(tmp_path: Path) -> None:
    calls = large_constants(tmp_path / "model")
    served, fallbacks = await load(tmp_path / "model")
    assert fallbacks == []
    assert_answers(served, calls, in_a_session(tmp_path / "model", calls))


async def test_the_next_version_takes_the_place_of_the_last(tmp_path: Path) -> None:
    calls = NATIVE["half plus two, references"](tmp_path / "1")
    versions = [tmp_path / "a", tmp_path / "b"]
    for factor, path in enumerate(versions, 2):
        plain(path, float(factor))
    old, _ = await load(versions[0])
    task = asyncload.prefetch(versions[1], reuse=old)
    new = await task.settled()
    assert new is old
    assert new["serving_default"](np.float32(3.0))["y"] == 9.0
    # One that is initialised by operations of its own is made anew.
    first, _ = await load(tmp_path / "1")
    again, fallbacks = await load(tmp_path / "1", reuse=first)
    assert again is not first
    assert "initialised" in fallbacks[0]
    assert_answers(again, calls, in_a_session(tmp_path / "1", calls))


async def test_damage_raises_errors_of_ours(tmp_path: Path, loader: asyncload.Loader) -> None:
    NATIVE["reads and changes"](tmp_path / "model")
    program = tmp_path / "model" / "saved_model.pb"
    content = program.read_bytes()
    random = np.random.default_rng(5)
    for _ in range(40):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 3):
            damaged[at] = random.integers(0, 256)
        program.write_bytes(damaged)
        with suppress(asyncload.AsyncloadError):
            await loader.load(tmp_path / "model", shared=False)


def circle(graph_def: Any) -> None:
    """Have the node that changes a variable take itself for the variable."""
    for node in graph_def.node:
        if node.op == "AssignAdd":
            node.input[0] = node.name


def nowhere(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "Mul":
            node.input[0] = "nowhere"


def beyond(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "Mul":
            node.input[0] += ":7"


def without_attribute(graph_def: Any) -> None:
    """Leave out what TensorFlow's optimisers end the process for."""
    for node in graph_def.node:
        if node.op == "Const" and not node.name.startswith("save"):
            del node.attr["value"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_attribute, "damaged function"),
        (circle, "cannot load"),
        (nowhere, "'nowhere'"),
        (beyond, r"output 7 of .*, which has 1"),
    ],
)
async def test_graphs_that_contradict_themselves(change: Any, says: str, tmp_path: Path) -> None:
    NATIVE["reads and changes"](tmp_path / "model")
    program = tmp_path / "model" / "saved_model.pb"
    parsed = saved_model_pb2.SavedModel.FromString(program.read_bytes())
    change(parsed.meta_graphs[0].graph_def)
    program.write_bytes(parsed.SerializeToString())
    with pytest.raises(asyncload.FormatError, match=says):
        await load(tmp_path / "model")


async def test_sparse_and_ragged_tensors(tmp_path: Path) -> None:
    ((name, given),) = composites(tmp_path / "model")
    served, fallbacks = await load(tmp_path / "model")
    stock = tf.saved_model.load(tmp_path / "model").signatures[name]
    assert fallbacks == []
    assert served[name].inputs == stock.structured_input_signature[1]
    mine = served(**given)
    theirs = stock(**{key: tf.constant(value) for key, value in given.items()})
    for key, value in theirs.items():
        assert type(mine[key]) is type(value)
        assert served[name].outputs[key].is_compatible_with(mine[key])
        parts = (tf.nest.flatten(each, expand_composites=True) for each in (mine[key], value))
        for one, other in zip(*parts, strict=True):
            assert one.numpy().tolist() == other.numpy().tolist()


async def test_a_signature_that_initialises(tmp_path: Path) -> None:
    calls = named_signature(tmp_path / "model")
    served, fallbacks = await load(tmp_path / "model", warmup=True)
    assert fallbacks == []
    assert set(served) == set(tf.saved_model.load(tmp_path / "model").signatures)
    assert set(served) == {"predict", "__saved_model_init_op"}
    assert_answers(served, calls, in_a_session(tmp_path / "model", calls))
    assert served(**calls[0][1]).keys() == {"found"}  # the only one that answers
    assert served["__saved_model_init_op"]() == {"__saved_model_init_op": None}
