"""SavedModels through the whole house: signatures that answer as TensorFlow's own do."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.events import FellBack, Indexed, StageEnded, TensorReady
from asyncload.sources import forget_memory, put_memory
from tests.equality import same_bytes
from tests.materialize.served_models import ZOO, Inputs, with_own_state

Made = dict[str, tuple[Path, Inputs]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("served")
    return {name: (folder / name, make(folder / name)) for name, make in ZOO.items()}


def assert_same(mine: Any, stock: Any) -> None:
    """Assert that two results have the same structure, and the same bits."""
    assert list(mine) == list(stock)
    for name in stock:
        assert type(mine[name]) is type(stock[name]), name
        one, other = (tf.nest.flatten(r[name], expand_composites=True) for r in (mine, stock))
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            if a.dtype == tf.string:
                assert np.array_equal(a.numpy(), b.numpy()), name
            else:
                assert same_bytes(a.numpy(), b.numpy()), name


async def fallbacks(load: asyncload.Load[Any]) -> list[str]:
    return [event.reason async for event in load.events() if isinstance(event, FellBack)]


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.either_loop
async def test_signatures_answer_as_stock(
    name: str, models: Made, loader: asyncload.Loader
) -> None:
    path, calls = models[name]
    load = loader.prefetch(path)
    served = await load
    stock = tf.saved_model.load(path).signatures
    assert set(served) == set(stock)
    for signature, inputs in calls.items():
        for _ in range(2):
            assert_same(served[signature](**inputs), stock[signature](**inputs))
        _, specs = stock[signature].structured_input_signature
        assert served[signature].inputs == specs
        assert served[signature].outputs == stock[signature].structured_outputs
    assert await fallbacks(load) == []


@pytest.mark.parametrize("name", ["exported", "lookups", "structures", "stateful"])
@pytest.mark.either_loop
async def test_signatures_run_in_a_function_of_the_users(
    name: str, models: Made, loader: asyncload.Loader
) -> None:
    path, calls = models[name]
    served, stock = await loader.load(path), tf.saved_model.load(path).signatures
    for signature, inputs in calls.items():
        traced = tf.function(lambda signature=signature, **given: served[signature](**given))
        assert_same(traced(**inputs), stock[signature](**inputs))


async def test_only_what_a_signature_needs_is_read(models: Made, loader: asyncload.Loader) -> None:
    path, calls = models["composed"]
    load = loader.prefetch(path, signatures=("inner",))
    served = await load
    (indexed,) = [event async for event in load.events() if isinstance(event, Indexed)]
    everything = await loader.inspect(path)
    assert list(served) == ["inner"]
    assert 0 < indexed.tensors < len(everything.tensors)
    assert load.progress.bytes_done == load.progress.bytes_total == indexed.nbytes
    stock = tf.saved_model.load(path).signatures
    assert_same(served(**calls["inner"]), stock["inner"](**calls["inner"]))


async def test_a_signature_that_does_not_exist(models: Made, loader: asyncload.Loader) -> None:
    path, _ = models["composed"]
    with pytest.raises(asyncload.FormatError, match=r"no signature 'outer'; it has.*'inner'"):
        await loader.load(path, signatures=["inner", "outer"])
    served = await loader.load(path)
    with pytest.raises(KeyError, match=r"outer.*it has"):
        served["outer"]
    with pytest.raises(TypeError, match="several signatures"):
        served(tf.ones((1, 4)))


async def test_inputs_are_checked(models: Made, loader: asyncload.Loader) -> None:
    served = await loader.load(models["composed"][0])
    x = np.ones((2, 4), "float32")
    assert served["inner"](x)["output_0"].shape == (2, 4)
    with pytest.raises(TypeError, match=r"takes x .*; it got y"):
        served["inner"](y=x)
    with pytest.raises(TypeError, match="two values"):
        served["inner"](x, x=x)
    with pytest.raises(TypeError, match="by name"):
        served["control"](x, 3)
    with pytest.raises(TypeError, match="has to be float32"):
        served["inner"](tf.ones((2, 4), tf.int32))
    with pytest.raises(ValueError, match=r"shape \(None, 4\).*\(2, 5\)"):
        served["inner"](np.ones((2, 5), "float32"))
    assert "inner" in repr(served)
    assert "float32" in repr(served["inner"])


async def test_without_signatures(tmp_path: Path, loader: asyncload.Loader) -> None:
    module = tf.Module()
    module.v = tf.Variable(1.0)
    tf.saved_model.save(module, tmp_path / "bare")
    with pytest.raises(asyncload.FormatError, match="whole=True"):
        await loader.load(tmp_path / "bare")


async def test_a_resource_with_state_of_its_own_is_left_to_the_whole_object(
    tmp_path: Path, loader: asyncload.Loader
) -> None:
    path = tmp_path / "own"
    calls = with_own_state(path)
    load = loader.prefetch(path)
    served = await load
    stock = tf.saved_model.load(path).signatures
    assert_same(
        served(**calls["serving_default"]), stock["serving_default"](**calls["serving_default"])
    )
    (reason,) = await fallbacks(load)
    assert "the whole object is made" in reason
    read = [event.name async for event in load.events() if isinstance(event, TensorReady)]
    assert "variable/.ATTRIBUTES/VARIABLE_VALUE" in read


async def test_a_failed_self_test_leaves_it_to_stock(
    models: Made, loader: asyncload.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncload.materialize import _private

    monkeypatch.setattr(_private, "serving_path", lambda: False)
    path, calls = models["lookups"]
    load = loader.prefetch(path)
    served = await load
    assert_same(
        served["find"](**calls["find"]),
        tf.saved_model.load(path).signatures["find"](**calls["find"]),
    )
    assert await fallbacks(load)


async def test_stages(models: Made, loader: asyncload.Loader) -> None:
    load = loader.prefetch(models["exported"][0], warmup=True)
    await load
    stages = [event.stage async for event in load.events() if isinstance(event, StageEnded)]
    assert sorted(stages) == ["bind", "build", "index", "read", "warm-up"]


# --- trust ---------------------------------------------------------------------------------


@pytest.fixture
def in_memory(models: Made) -> Any:
    def put(name: str) -> str:
        folder = models[name][0]
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return put_memory(f"served/{name}", files)

    yield put
    forget_memory("served")


async def test_a_program_from_elsewhere_has_to_be_trusted(
    in_memory: Any, models: Made, loader: asyncload.Loader
) -> None:
    uri = in_memory("lookups")
    with pytest.raises(asyncload.Unsafe, match="trusted=True"):
        await loader.load(uri)
    with pytest.raises(asyncload.Unsafe, match="trusted=True"):
        await loader.load(models["lookups"][0], trusted=False)
    assert len(await loader.load_weights(uri))


@pytest.mark.parametrize("name", ["exported", "lookups"])
async def test_from_memory_with_assets(
    name: str, in_memory: Any, models: Made, loader: asyncload.Loader
) -> None:
    path, calls = models[name]
    served = await loader.load(in_memory(name), trusted=True)
    stock = tf.saved_model.load(path).signatures
    for signature, inputs in calls.items():
        assert_same(served[signature](**inputs), stock[signature](**inputs))


async def test_the_file_in_the_folder_is_the_folder(models: Made, loader: asyncload.Loader) -> None:
    path, calls = models["lookups"]
    served = await loader.load(path / "saved_model.pb")
    stock = tf.saved_model.load(path).signatures
    assert_same(served["find"](**calls["find"]), stock["find"](**calls["find"]))


# --- what is left behind -------------------------------------------------------------------


async def test_functions_and_assets_go_with_the_last_signature(
    in_memory: Any, models: Made, loader: asyncload.Loader
) -> None:
    from asyncload.materialize._private import _serving

    _, calls = models["lookups"]
    gc.collect()
    before = dict(_serving._users)
    served = await loader.load(in_memory("lookups"), trusted=True)
    find = served["find"]
    bound = cast(Any, find._run)._bound
    file = Path(bound._tensors[next(iter(bound.plan.assets))].numpy().decode())
    del bound
    assert file.read_text().startswith("zero")
    del served
    await asyncio.sleep(0)
    gc.collect()
    assert find(**calls["find"])
    assert dict(_serving._users) != before
    del find
    gc.collect()
    assert dict(_serving._users) == before
    assert not file.exists()


async def test_the_same_functions_are_shared_between_loads(
    models: Made, loader: asyncload.Loader
) -> None:
    path, calls = models["exported"]
    one, two = await loader.load_many([path, path])
    names = [cast(Any, s["serving_default"]._run)._library.names for s in (one, two)]
    assert names[0] == names[1]
    first = one["serving_default"](**calls["serving_default"])
    del one
    gc.collect()
    assert_same(two["serving_default"](**calls["serving_default"]), first)


async def test_loads_share_no_state(models: Made, loader: asyncload.Loader) -> None:
    path, calls = models["lookups"]
    one, two = await loader.load(path), await loader.load(path)
    before = two["find"](**calls["find"])
    one["insert"](words=tf.constant(["none"]))
    assert_same(two["find"](**calls["find"]), before)
    path, _ = models["stateful"]
    one, two = await loader.load(path), await loader.load(path)
    assert [int(one["increment"]()["output_0"]) for _ in range(3)] == [1, 2, 3]
    assert int(two["increment"]()["output_0"]) == 1


async def test_cancel_at_every_stage_leaves_nothing(models: Made, loader: asyncload.Loader) -> None:
    path, calls = models["lookups"]
    full = loader.prefetch(path, warmup=True, priority="demand")
    count = len([event async for event in full.events()])
    del full
    for stop_at in range(0, count - 1, 2):
        load = loader.prefetch(path, warmup=True, priority="demand")
        events = load.events()
        for _ in range(stop_at + 1):
            await anext(events)
        await events.aclose()
        over = load.done()
        load.cancel()
        if not over:
            with pytest.raises(asyncio.CancelledError):
                await load
        async for _ in load.events():  # until all of it has ended
            pass
    served = await loader.load(path)
    assert served["find"](**calls["find"])
    assert loader._resources.budget.held == 0
