"""`load_into` that fails, or is cancelled: nothing has changed, bit for bit."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload import Corrupt, FormatError, LoaderClosed, MismatchError
from asyncload.events import Event, TensorReady
from asyncload.materialize import _private
from tests import keras_2
from tests.equality import same_bytes
from tests.live import (
    SUFFIXES,
    dense,
    functional,
    same,
    save,
    scramble,
    stock,
    train,
    unchanged,
    values,
)

# Where something does not fit, Keras says so in passing, and NumPy something of Keras.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as made:
        yield made


# --- all or nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".weights.json"])
async def test_the_last_layer_does_not_fit(
    suffix: str, loader: asyncload.Loader, tmp_path: Path
) -> None:
    saved = functional("a", "b", "c", widths=(3, 3, 4))
    path = tmp_path / f"m{suffix}"
    save(saved, path)
    model = functional("a", "b", "c")
    train(model)
    with unchanged(model), pytest.raises(MismatchError) as caught:
        await loader.load_into(model, path)
    assert "(3, 3)" in str(caught.value)
    assert "(3, 4)" in str(caught.value)
    assert "Nothing was changed" in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_layer_is_missing(suffix: str, loader: asyncload.Loader, tmp_path: Path) -> None:
    saved = functional("a", "b", widths=(3, 3))
    path = tmp_path / f"m{suffix}"
    save(saved, path)
    model = functional("a", "b", "c")
    with unchanged(model), pytest.raises(MismatchError, match=r"no such tensor|only in the model"):
        await loader.load_into(model, path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npz"])
async def test_a_truncated_file(suffix: str, loader: asyncload.Loader, tmp_path: Path) -> None:
    model = functional("a", "b", "c")
    path = tmp_path / f"m{suffix}"
    if suffix == ".npz":
        np.savez(path, **{weight.path: weight.numpy() for weight in model.weights})
    else:
        save(model, path)
    whole = path.read_bytes()
    with unchanged(model):
        for tenth in range(10):
            path.write_bytes(whole[: len(whole) * tenth // 10])
            with pytest.raises(FormatError):
                await loader.load_into(model, path)


async def test_bytes_that_decode_to_nothing(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for number, weight in enumerate(model.layers[0].weights):
            file[f"layers/dense/vars/{number}"] = weight.numpy()
        file.create_dataset(
            "layers/dense_1/vars/0", data=np.ones((4, 2), "f4"), chunks=(4, 2), fletcher32=True
        )
        offset = file["layers/dense_1/vars/0"].id.get_chunk_info(0).byte_offset
        file["layers/dense_1/vars/1"] = np.ones(2, "f4")
    await loader.load_into(model, path)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with unchanged(model), pytest.raises((Corrupt, asyncload.DecodeError)):
        await loader.load_into(model, path)


async def test_cancelled_while_reading(tmp_path: Path) -> None:
    model = functional("a", "b", "c")
    model.save_weights(tmp_path / "m.weights.h5")
    scramble(model)
    task: asyncio.Task[None]

    def observe(event: Event) -> None:
        if isinstance(event, TensorReady):
            task.cancel()

    async with asyncload.Loader(executor="thread", observer=observe) as loader:
        with unchanged(model):
            task = asyncio.create_task(loader.load_into(model, tmp_path / "m.weights.h5"))
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
        assert loader._resources.budget.held == 0


class Slow(keras.layers.Dense):
    """A layer that is held up while it loads."""

    begun, go_on = threading.Event(), threading.Event()

    def load_own_variables(self, store: Any) -> None:
        self.begun.set()
        self.go_on.wait(10)
        super().load_own_variables(store)


@pytest.mark.parametrize("width", [3, 5])
async def test_cancelled_while_assigning(
    width: int, loader: asyncload.Loader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever gets the cancellation finds all values new, or all old, and none changes later."""

    def make(width: int) -> Any:
        inputs = keras.Input((3,))
        return keras.Model(inputs, keras.layers.Dense(width)(Slow(3)(inputs)))

    saved, model = make(3), make(width)
    saved.save_weights(tmp_path / "m.weights.h5")
    old = scramble(model)
    expected = values(saved) if width == 3 else old
    Slow.begun.clear()
    Slow.go_on.clear()
    task = asyncio.create_task(loader.load_into(model, tmp_path / "m.weights.h5"))
    await asyncio.to_thread(Slow.begun.wait)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    Slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert same(values(model), expected)
    del task
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_cancelled_before_the_thread_is_free(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    model = dense()
    model.save_weights(tmp_path / "m.weights.h5")
    scramble(model)
    free = threading.Event()
    loader._resources.builder.submit(free.wait)
    with unchanged(model):
        task = asyncio.create_task(loader.load_into(model, tmp_path / "m.weights.h5"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()


async def test_what_is_no_number(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    weights = {
        name: {"k:0": np.zeros(shape, "V4"), "b:0": np.ones(shape[1], "f4")}
        for name, shape in (("first", (3, 4)), ("second", (4, 2)))
    }
    path = keras_2.save_weights(tmp_path / "m.h5", weights)
    with unchanged(model), pytest.raises(MismatchError, match=r"V4.*\n.*V4"):
        await loader.load_into(model, path)
    named: dict[str, Any] = {weight.path: weight.numpy().view("V4") for weight in model.weights}
    np.savez(tmp_path / "m.npz", **named)
    with unchanged(model), pytest.raises((MismatchError, FormatError)):
        await loader.load_into(model, tmp_path / "m.npz")


async def test_a_loader_that_is_closed(tmp_path: Path) -> None:
    model = dense()
    model.save_weights(tmp_path / "m.weights.h5")
    loader = asyncload.Loader(executor="thread")
    await loader.aclose()
    with unchanged(model), pytest.raises(LoaderClosed):
        await loader.load_into(model, tmp_path / "m.weights.h5")


# --- layers that load in their own way ----------------------------------------------------------


class Own(keras.layers.Layer):
    """A layer with a state that is no Keras variable."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.double = self.add_weight(shape=(shape[-1], 3), name="double")
        self.raw = tf.Variable(np.zeros(3, "f4"))
        self.note = np.zeros(3)

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.kernel)

    def save_own_variables(self, store: Any) -> None:
        store["kernel"] = self.kernel
        store["note"] = np.arange(3.0)

    def load_own_variables(self, store: Any) -> None:
        self.note = store["note"]
        self.fresh = True
        self.raw.assign(np.asarray(store["note"], "f4"))
        self.kernel.assign(store["kernel"])
        self.double.assign(self.kernel * 2)


class Stubborn(Own):
    """A layer that makes a variable while it loads, which Keras forbids within a Recording."""

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self.note = self.note * keras.Variable(np.ones(3, "f4")).numpy()


@pytest.mark.parametrize("kind", [Own, Stubborn])
async def test_own_ways(kind: type[Own], loader: asyncload.Loader, tmp_path: Path) -> None:
    def make(width: int) -> Any:
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(width)(kind()(inputs)))

    model, other = make(2), make(5)
    model.save_weights(tmp_path / "m.weights.h5")
    kernel = model.layers[1].kernel.numpy()
    scramble(model)
    await loader.load_into(model, tmp_path / "m.weights.h5")
    own = model.layers[1]
    assert same_bytes(own.kernel.numpy(), kernel)
    assert same_bytes(own.double.numpy(), kernel * 2)
    assert same_bytes(own.raw.numpy(), np.arange(3, dtype="f4"))
    assert same_bytes(own.note, np.arange(3.0))

    own = other.layers[1]
    with unchanged(other), pytest.raises(MismatchError, match="dense"):
        await loader.load_into(other, tmp_path / "m.weights.h5")
    assert not hasattr(own, "fresh")
    assert same_bytes(own.raw.numpy(), np.zeros(3, "f4"))


async def test_without_the_fast_path(
    loader: asyncload.Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_private, "fast_path", lambda: False)
    model = dense()
    train(model)
    for suffix in (".weights.h5", ".h5"):
        path = tmp_path / f"m{suffix}"
        save(model, path)
        expected = stock(model, path)
        scramble(model)
        await loader.load_into(model, path)
        assert same(values(model), expected)
        other = dense(6)
        before = scramble(other)
        with pytest.raises(MismatchError):
            await loader.load_into(other, path)
        assert same(values(other), before)
