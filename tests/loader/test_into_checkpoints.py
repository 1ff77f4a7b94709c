"""Checkpoints into objects that live: what TensorFlow would restore, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.events import FellBack
from asyncload.sources import forget_memory, put_memory
from tests.materialize import checkpoints
from tests.materialize.checkpoints import Arrays, content

ZOO = {
    name: getattr(checkpoints, name)
    for name in ("module", "dtypes", "tables", "others", "training", "slots", "sharded", "wrapped")
}


def write(target: Any, prefix: Path) -> Path:
    own = isinstance(target, tf.train.Checkpoint)
    (target if own else tf.train.Checkpoint(target)).write(str(prefix))
    return prefix


def assert_equal(one: Arrays, other: Arrays) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        if array.dtype.hasobject:
            assert array.tolist() == other[name].tolist(), name
        else:
            assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.either_loop
async def test_it_is_restored_as_tensorflow_does(
    name: str, tmp_path: Path, loader: asyncload.Loader
) -> None:
    prefix = write(ZOO[name](2), tmp_path / "ckpt-12")
    mine, stock = ZOO[name](1), ZOO[name](1)
    await loader.load_into(mine, prefix)
    own = isinstance(stock, tf.train.Checkpoint)
    (stock if own else tf.train.Checkpoint(stock)).restore(str(prefix))
    assert_equal(content(mine, tmp_path), content(stock, tmp_path))


async def test_the_latest_of_a_folder(tmp_path: Path, loader: asyncload.Loader) -> None:
    saved = checkpoints.wrapped(2)
    manager = tf.train.CheckpointManager(saved, str(tmp_path / "run"), max_to_keep=2)
    for _ in range(3):
        saved.extra.assign_add(10)
        manager.save()
    target = checkpoints.wrapped(1)
    await loader.load_into(target, tmp_path / "run")
    assert target.extra.numpy() == 32
    assert target.save_counter.numpy() == 3


async def test_what_does_not_fit_is_named_and_nothing_changes(
    tmp_path: Path, loader: asyncload.Loader
) -> None:
    saved = tf.train.Checkpoint(
        a=tf.Variable([1.0]), b=tf.Variable([1.0, 2.0]), more=tf.Variable(1)
    )
    prefix = write(saved, tmp_path / "ckpt")
    target = tf.train.Checkpoint(
        a=tf.Variable([5.0]), b=tf.Variable([5.0]), missing=tf.Variable(5.0)
    )
    assert target.save_counter.numpy() == 0  # made when first asked for
    before = content(target, tmp_path)
    with pytest.raises(asyncload.MismatchError) as caught:
        await loader.load_into(target, prefix)
    for part in ("b/.ATTRIBUTES", "(2,)", "(1,)", "missing", "more"):
        assert part in str(caught.value)
    assert_equal(content(target, tmp_path), before)
    with pytest.raises(asyncload.MismatchError, match=r"b/\.ATTRIBUTES"):
        await loader.load_into(target, prefix, partial=True)
    assert_equal(content(target, tmp_path), before)
    target.b = tf.Variable([0.0, 0.0])
    await loader.load_into(target, prefix, partial=True)
    assert target.b.numpy().tolist() == [1.0, 2.0]
    assert target.missing.numpy() == 5.0


async def test_a_damaged_tensor_changes_nothing(tmp_path: Path, loader: asyncload.Loader) -> None:
    prefix = write(checkpoints.module(2), tmp_path / "ckpt")
    data = Path(f"{prefix}.data-00000-of-00001")
    entry = (await loader.inspect(prefix)).tensors["dense/w/.ATTRIBUTES/VARIABLE_VALUE"]
    content_bytes = bytearray(data.read_bytes())
    content_bytes[entry.offset] ^= 1
    data.write_bytes(content_bytes)
    target = checkpoints.module(1)
    before = content(target, tmp_path)
    with pytest.raises(asyncload.Corrupt, match="dense/w"):
        await loader.load_into(target, prefix)
    assert_equal(content(target, tmp_path), before)
    await loader.load_into(target, prefix, verify=False)
    assert (
        target.dense.w.numpy().tobytes() != before["dense/w/.ATTRIBUTES/VARIABLE_VALUE"].tobytes()
    )


async def test_what_was_traced_stays_traced(tmp_path: Path, loader: asyncload.Loader) -> None:
    prefix = write(checkpoints.Dense(4, 2), tmp_path / "ckpt")
    target = checkpoints.Dense(4, 1)
    x = np.ones((2, 4), "float32")
    target(x)
    traced = target.__call__.experimental_get_tracing_count()
    await loader.load_into(target, prefix)
    assert target(x).numpy().tobytes() == checkpoints.Dense(4, 2)(x).numpy().tobytes()
    assert target.__call__.experimental_get_tracing_count() == traced


@pytest.mark.parametrize("where", ["disk", "memory"])
async def test_what_only_tensorflow_can_restore(
    where: str,
    tmp_path: Path,
    loader: asyncload.Loader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from asyncload.materialize import _private

    monkeypatch.setattr(_private, "trackables_work", lambda: False)
    prefix: Any = write(checkpoints.wrapped(2), tmp_path / "ckpt-7")
    if where == "memory":
        files = {path.name: path.read_bytes() for path in tmp_path.glob("ckpt-7.*")}
        prefix = f"{put_memory('run', files)}/ckpt-7"
    target = checkpoints.wrapped(1)
    seen: list[Any] = []
    try:
        async with asyncload.Loader(processes=1, observer=seen.append) as watched:
            await watched.load_into(target, prefix)
    finally:
        forget_memory("run")
    assert target.extra.numpy() == 2
    assert [event for event in seen if isinstance(event, FellBack)]


async def test_options_that_are_for_other_files(tmp_path: Path, loader: asyncload.Loader) -> None:
    prefix = write(checkpoints.wrapped(2), tmp_path / "ckpt")
    options: tuple[Any, ...] = ({"by_name": True}, {"skip_mismatch": True})
    for option in options:
        (name,) = option
        with pytest.raises(asyncload.FormatError, match=rf"{name}= of load_into\(\) is for"):
            await loader.load_into(checkpoints.wrapped(1), prefix, **option)
    with pytest.raises(TypeError, match="trackable"):
        await loader.load_into({"a": 1}, prefix)


async def test_a_saved_model_into_an_object(tmp_path: Path, loader: asyncload.Loader) -> None:
    saved = checkpoints.Dense(3, 2)
    tf.saved_model.save(saved, tmp_path / "model")
    target = checkpoints.Dense(3, 1)
    await loader.load_into(target, tmp_path / "model", partial=True)
    assert target.w.numpy().tobytes() == saved.w.numpy().tobytes()


async def test_on_the_default_loader(tmp_path: Path) -> None:
    prefix = write(checkpoints.wrapped(2), tmp_path / "ckpt")
    target = checkpoints.wrapped(1)
    await asyncload.load_into(target, prefix)
    assert target.extra.numpy() == 2
    await asyncload.aclose()
