"""A forked process gets what can work there, and an error that says what to do for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.forks import OwnLock
from asyncload.materialize.quiet import quiet

PATIENCE = 60  # seconds, far more than any of this takes
ONES = np.ones((1, 4), "float32")


def in_a_fork(function: Callable[[], object]) -> str:
    """Call a function in a process that is forked from this one; return the outcome as text."""
    here, there = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns of what this is about
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        outcome = "nothing"
        try:
            outcome = str(function())
        except BaseException as error:  # noqa: BLE001 - the parent is told
            outcome = f"{type(error).__name__}: {error}"
        finally:
            os.write(there, outcome.encode())
            os._exit(0)
    os.close(there)
    try:
        assert select.select([here], [], [], PATIENCE)[0], "it hangs"
        return os.read(here, 1 << 16).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(here)


@contextlib.contextmanager
def a_loop() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    """Run coroutines on a loop that the forked process has from its parent."""
    loop = asyncio.new_event_loop()
    try:
        yield lambda awaitable: loop.run_until_complete(_wait_for(awaitable))
        loop.run_until_complete(asyncload.aclose())
    finally:
        loop.close()


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _lease(lease: Any) -> Any:
    async with lease as model:
        return model(ONES, training=False).shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.save(made / "m.keras")
    module = tf.Module()
    module.v = tf.Variable(2.0)
    signature = [tf.TensorSpec([], tf.float32)]
    module.f = tf.function(lambda x: {"y": x * module.v}, input_signature=signature)
    tf.saved_model.save(module, made / "s", signatures=module.f)
    np.savez_compressed(made / "w.npz", a=np.arange(1000.0))
    return made


def test_what_belongs_to_the_parent(folder: Path) -> None:
    model = folder / "m.keras"
    with a_loop() as run:
        loader = asyncload.Loader()
        slot = asyncload.ModelSlot(model, loader=loader)
        cache = asyncload.ModelCache(loader, max_bytes="1MiB")
        run(loader.load_weights(folder / "w.npz"))
        run(slot.__aenter__())
        run(cache.preload([str(model)]))
        load = run(_prefetched(loader, model))
        signatures = run(asyncload.load(folder / "s"))
        cases: dict[str, Callable[[], object]] = {
            "Loader": lambda: run(loader.load_weights(folder / "w.npz")),
            "default Loader": lambda: run(asyncload.load_weights(folder / "w.npz")),
            "load": lambda: run(load),
            "slot": lambda: run(_lease(slot.lease())),
            "swap": lambda: run(slot.swap(str(model))),
            "cache": lambda: run(_lease(cache.get(str(model)))),
            "signature": lambda: signatures(1.0),
        }
        for case, call in cases.items():
            outcome = in_a_fork(call)
            assert outcome.startswith("Forked: "), case
            assert f"process {os.getpid()}" in outcome
            assert "after the fork" in outcome
        closed = in_a_fork(lambda: [run(each.aclose()) for each in (slot, cache, loader)])
        assert closed == "[None, None, None]"
        # The parent's own is as it was.
        assert run(_lease(slot.lease())) == (1, 2)
        assert len(run(loader.load_weights(folder / "w.npz"))) == 1
        for each in (slot, cache, loader):
            run(each.aclose())


async def _prefetched(loader: asyncload.Loader, path: Path) -> asyncload.Load[Any]:
    return loader.prefetch(path)


def test_what_is_loaded_anew_works_where_stock_does(folder: Path) -> None:
    path = folder / "m.keras"
    assert asyncio.run(asyncload.load(path))(ONES).shape == (1, 2)  # TensorFlow has started
    expected = str(keras.models.load_model(path)(ONES).numpy().tolist())

    async def leased() -> Any:
        async with asyncload.ModelSlot(path, warmup=True) as slot:
            await slot.swap(str(path))
            async with slot.lease() as model:
                return model(ONES).numpy().tolist()

    assert in_a_fork(lambda: keras.models.load_model(path)(ONES).numpy().tolist()) == expected
    assert in_a_fork(lambda: asyncio.run(asyncload.load(path))(ONES).numpy().tolist()) == expected
    assert in_a_fork(lambda: asyncio.run(leased())) == expected
    assert in_a_fork(lambda: len(asyncio.run(asyncload.load_weights(folder / "w.npz")))) == "1"


def test_what_would_hang_with_stock_is_refused(folder: Path) -> None:
    tf.function(lambda x: x + 1)(tf.constant(1.0))  # TensorFlow has started
    outcome = in_a_fork(lambda: asyncio.run(asyncload.load(folder / "s")))
    assert outcome.startswith(f"Forked: {folder / 's'}")
    assert "after TensorFlow had started" in outcome


def test_what_threads_of_the_parent_held_is_free() -> None:
    lock, held, done = OwnLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock, quiet():
            held.set()
            done.wait()

    def take() -> tuple[bool, float]:
        with lock:
            return gc.isenabled(), sys.getswitchinterval()

    expected = str(take())
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_a_fork(take) == expected
    finally:
        done.set()
        thread.join()


def test_a_daemonic_process(folder: Path) -> None:
    here, there = multiprocessing.Pipe()

    def work() -> None:
        there.send(len(asyncio.run(asyncload.load_weights(folder / "w.npz"))))

    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=work, daemon=True)
        process.start()
    assert here.poll(PATIENCE)
    assert here.recv() == 1
    process.join(PATIENCE)
    assert process.exitcode == 0
    process.close()
    here.close()
    there.close()
