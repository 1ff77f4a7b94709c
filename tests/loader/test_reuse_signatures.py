"""Signatures that take the values of their next version."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.events import FellBack
from asyncload.materialize._private import _rebind
from asyncload.materialize.reuse import empty
from asyncload.sources import forget_memory, put_memory
from tests.equality import same_bytes
from tests.loader.test_saved_models import assert_same
from tests.materialize.served_models import ZOO, Inputs, with_own_state

layers = keras.layers


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as made:
        yield made


def _dense(width: int = 4) -> Any:
    made = [layers.Dense(width, "relu"), layers.BatchNormalization(), layers.Dense(2)]
    return keras.Sequential([keras.Input((3,), name="x"), *made])


def _text(word: str) -> Any:
    vectorize = layers.TextVectorization(output_sequence_length=4, vocabulary=["red", word])
    inputs = keras.Input((), dtype="string", name="x")
    outputs = layers.Dense(2)(layers.Flatten()(layers.Embedding(8, 3)(vectorize(inputs))))
    return keras.Model(inputs, outputs)


def _export(model: Any, folder: Path) -> Path:
    """Export a model with other values than it had."""
    for variable in model.variables:
        variable.assign(keras.random.uniform(variable.shape, 0.1))
    model.export(folder, verbose=False)
    return folder


def _with_values_of(program: Path, values: Path, folder: Path) -> Path:
    """Make a SavedModel of one's program and another's checkpoint, as a retrained one is."""
    shutil.copytree(program, folder)
    shutil.rmtree(folder / "variables")
    shutil.copytree(values / "variables", folder / "variables")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("versions")
    dense, text = _dense(), _text("blue")
    made = {
        "one": _export(dense, folder / "one"),
        "other": _export(dense, folder / "other"),  # in which functions have other names
        "wide": _export(_dense(5), folder / "wide"),
        "text": _export(text, folder / "text"),
        "more": _export(text, folder / "more"),
        "words": _export(_text("green"), folder / "words"),
    }
    for name, program, values in (
        ("retrained", "one", "other"),
        ("text retrained", "text", "more"),
    ):
        made[name] = _with_values_of(made[program], made[values], folder / name)
    return made


X = np.random.default_rng(0).random((5, 3), "float32")
WORDS = np.array(["red blue", "green red red"])


async def reload(
    loader: asyncload.Loader, path: Any, served: Any, **options: Any
) -> tuple[Any, list[str]]:
    load = loader.prefetch(path, reuse=served, **options)
    return await load, [
        event.reason async for event in load.events() if isinstance(event, FellBack)
    ]


def stock(path: Path, **inputs: Any) -> Any:
    signatures = tf.saved_model.load(path).signatures
    return signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})


async def test_the_next_version_takes_its_place(
    made: dict[str, Path], loader: asyncload.Loader
) -> None:
    served = await loader.load(made["one"])
    traced = tf.function(lambda x: served(x)["output_0"])
    bound = served["serving_default"]._run._bound
    handles = dict(bound._tensors)
    for name in ("one", "retrained", "other", "one"):
        traced(tf.constant(X))
        assert await asyncio.to_thread(empty, served)
        with pytest.raises(tf.errors.OpError):
            served(X)
        again, reasons = await reload(loader, made[name], served)
        assert reasons == []
        assert again is served
        assert served.uri.endswith(made[name].name)
        expected = stock(made[name], x=X)
        assert_same(served(X), expected)
        assert same_bytes(traced(tf.constant(X)).numpy(), expected["output_0"].numpy())
    assert traced.experimental_get_tracing_count() == 1
    assert all(bound._tensors[number] is handle for number, handle in handles.items())


async def test_values_are_not_copied_and_their_memory_comes_back(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((1024,), name="x"), layers.Dense(4096)])
    model.export(tmp_path / "large", verbose=False)
    async with asyncload.Loader(executor="thread") as loader:
        pool = loader._resources.arenas
        served = await loader.load(tmp_path / "large")
        for _ in range(3):
            await asyncio.sleep(0.05)  # the construction thread lets go of its last call
            idle = pool.idle_bytes
            assert await asyncio.to_thread(empty, served)
            assert pool.idle_bytes >= idle + (16 << 20)
            assert (await reload(loader, tmp_path / "large", served))[0] is served
            assert pool.idle_bytes <= idle


async def test_a_vocabulary_that_is_the_same(
    made: dict[str, Path], loader: asyncload.Loader
) -> None:
    served = await loader.load(made["text"])
    again, reasons = await reload(loader, made["text retrained"], served)
    assert reasons == []
    assert again is served
    assert_same(served(x=WORDS), stock(made["text retrained"], x=WORDS))


async def test_what_differs_is_made_anew(made: dict[str, Path], loader: asyncload.Loader) -> None:
    for old, new, reason in (
        ("one", "wide", "different"),
        ("text", "words", "tables or assets"),
        ("one", "text", "tables or assets"),
    ):
        served = await loader.load(made[old])
        again, reasons = await reload(loader, made[new], served)
        assert again is not served
        assert reason in reasons[0]
        x = X if new == "wide" else WORDS
        assert_same(again(x), stock(made[new], x=x))
        inputs = X if old == "one" else WORDS
        assert_same(served(inputs), stock(made[old], x=inputs))


async def test_other_kinds_of_loads(
    made: dict[str, Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    served = await loader.load(made["one"])
    again, reasons = await reload(loader, made["one"], served, signatures=["serving_default"])
    assert (again is served) == (reasons == [])
    assert_same(again(X), stock(made["one"], x=X))
    root, reasons = await reload(loader, made["one"], served, whole=True)
    assert "whole object" in reasons[0]
    assert root is not served
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save(tmp_path / "m.keras")
    model, reasons = await reload(loader, tmp_path / "m.keras", served)
    assert "another kind" in reasons[0]
    again, reasons = await reload(loader, made["one"], model)
    assert "another kind" in reasons[0]
    assert_same(again(X), stock(made["one"], x=X))


@pytest.mark.parametrize("name", [*ZOO, "with_own_state"])
@pytest.mark.either_loop
async def test_every_kind_of_signature(name: str, loader: asyncload.Loader, tmp_path: Path) -> None:
    """Reused or not, it answers as TensorFlow's own does, and as if it had not been called yet."""
    path = tmp_path / name
    save: Callable[[Path], Inputs] = with_own_state if name == "with_own_state" else ZOO[name]
    calls = save(path)
    served = await loader.load(path)
    signatures = tf.saved_model.load(path).signatures
    expected = {key: signatures[key](**inputs) for key, inputs in calls.items()}
    for _ in range(3):
        for key, inputs in calls.items():
            served[key](**inputs)
        again, reasons = await reload(loader, path, served)
        assert (again is served) == (reasons == [])
        assert (again is served) == (name not in ("lookups", "with_own_state"))
        for key, inputs in calls.items():
            assert_same(again[key](**inputs), expected[key])
        served = again


async def test_from_bytes_alone(made: dict[str, Path], loader: asyncload.Loader) -> None:
    uris = []
    for name in ("one", "retrained"):
        files = {
            str(path.relative_to(made[name])): path.read_bytes()
            for path in made[name].rglob("*")
            if path.is_file()
        }
        uris.append(put_memory(f"reuse-{name}", files))
    try:
        served = await loader.load(uris[0], trusted=True)
        again, reasons = await reload(loader, uris[1], served, trusted=True)
        assert reasons == []
        assert again is served
        with pytest.raises(asyncload.Unsafe):
            await loader.load(uris[0], reuse=served)
    finally:
        for name in ("one", "retrained"):
            forget_memory(f"reuse-{name}")
    assert_same(served(X), stock(made["retrained"], x=X))


async def test_values_that_do_not_fit_change_nothing(
    made: dict[str, Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    path = _with_values_of(made["one"], made["wide"], tmp_path / "mixed")
    served = await loader.load(made["one"])
    with pytest.raises(asyncload.MismatchError):
        await loader.load(path, reuse=served)
    assert_same(served(X), stock(made["one"], x=X))


async def test_a_failure_halfway_changes_nothing(
    made: dict[str, Path], loader: asyncload.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await loader.load(made["one"])
    real, calls = _rebind._assign, 0

    def failing(handle: Any, value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError("no more")
        real(handle, value)

    monkeypatch.setattr(_rebind, "_assign", failing)
    with pytest.raises(MemoryError):
        await loader.load(made["other"], reuse=served)
    monkeypatch.undo()
    assert_same(served(X), stock(made["one"], x=X))
    assert (await reload(loader, made["other"], served))[0] is served
    assert_same(served(X), stock(made["other"], x=X))
