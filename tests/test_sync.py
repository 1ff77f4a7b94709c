"""Programs without an event loop: the same functions, in scripts, threads and Flask."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import keras
import numpy as np
import pytest

import asyncload
from asyncload import sync

PATIENCE = 60  # seconds
ONES = np.ones((1, 4), "float32")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    sync.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(made / "m.keras")
    np.savez_compressed(made / "w.npz", a=np.arange(3.0), b=np.zeros(9))
    return made


def test_each_function_returns_what_its_namesake_does(folder: Path, tmp_path: Path) -> None:
    path = str(folder / "w.npz")
    weights = asyncio.run(asyncload.load_weights(path))
    assert sync.load_weights(path).keys() == weights.keys()
    assert dict(sync.stream(path)).keys() == weights.keys()
    assert sync.inspect(path) == asyncio.run(asyncload.inspect(path))
    assert sync.ls(str(folder)) == asyncio.run(asyncload.ls(str(folder)))
    assert [len(each) for each in sync.load_many([path, path])] == [2, 2]
    sync.fetch(path, tmp_path / "copy")
    assert (tmp_path / "copy" / "w.npz").read_bytes() == (folder / "w.npz").read_bytes()
    parts = list(sync.map_parts(_lengths, [path, path]))
    assert sorted(part.index for part in parts) == [0, 1]
    assert all(part.unwrap()["n"] == Path(path).stat().st_size for part in parts)
    with pytest.raises(asyncload.NotFound):
        sync.load(str(folder / "none.npz"))
    with pytest.raises(asyncload.NotFound):
        list(sync.stream(str(folder / "none.npz")))


def _lengths(buffer: memoryview) -> Mapping[str, Any]:
    return {"n": np.array(len(buffer))}


def test_an_iteration_that_is_left_early_ends(folder: Path) -> None:
    for name, _ in sync.stream(str(folder / "w.npz")):
        assert name in "ab"
        break


@pytest.mark.parametrize("name", [name for name in sync.__all__ if hasattr(asyncload, name)])
def test_signatures_and_documentation_are_those_of_the_namesakes(name: str) -> None:
    ours, theirs = getattr(sync, name), getattr(asyncload, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)


def test_what_the_calling_thread_has_set_reaches_the_load(folder: Path) -> None:
    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(4,))

        def call(self, x: Any) -> Any:
            return x * self.w

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    path = str(folder / "scale.keras")
    inputs = keras.Input((4,))
    keras.Model(inputs, Scale()(inputs)).save(path)
    keras.mixed_precision.set_global_policy("bfloat16")
    try:
        with keras.saving.custom_object_scope({"Scale": Scale}):
            model = sync.load(path)
            both = sync.load_many([path, path], shared=False)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert [each.layers[1].w.dtype for each in (model, *both)] == ["bfloat16"] * 3


def test_a_loop_is_not_held_up(folder: Path) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="await"):
            sync.load_weights(str(folder / "w.npz"))

    asyncio.run(main())


def test_threads_share_one_loader(folder: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(sync.load_weights, [str(folder / "w.npz")] * 16))
    assert {len(each) for each in results} == {2}
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("asyncload-sync") == 1


def test_flask_with_a_slot(folder: Path) -> None:
    app = flask.Flask("service")
    with sync.entered(asyncload.ModelSlot(str(folder / "m.keras"))) as slot:

        @app.post("/predict")
        def predict() -> Any:
            inputs = np.asarray(flask.request.get_json()["inputs"], "float32")
            return {"outputs": sync.run(slot.run, _answer, inputs)}

        expected = np.asarray(keras.models.load_model(folder / "m.keras")(ONES)).tolist()
        client = app.test_client()
        for _ in range(2):
            answer = client.post("/predict", json={"inputs": ONES.tolist()})
            assert answer.get_json() == {"outputs": expected}
            sync.run(slot.swap, str(folder / "m.keras"), priority="demand")


def _answer(model: Any, inputs: Any) -> list[list[float]]:
    return np.asarray(model(inputs, training=False)).tolist()


def test_a_script(folder: Path) -> None:
    code = "import asyncload.sync, sys; print(len(asyncload.sync.load_weights(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "w.npz")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


def test_ctrl_c_stops_the_wait_and_the_work(folder: Path) -> None:
    code = """
import asyncio, asyncload.sync, sys
async def work():
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
try:
    asyncload.sync.run(work)
except KeyboardInterrupt:
    asyncload.sync.close()
    sys.exit(130)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        time.sleep(0.1)
        program.send_signal(signal.SIGINT)
        said, complaints = program.communicate(timeout=PATIENCE)
    assert (said, complaints, program.returncode) == ("cancelled\n", "", 130)


SERVICE = """
import os
import asyncload.sync
from flask import Flask

WEIGHTS = os.environ["WEIGHTS"]
app = Flask("service")
before = asyncload.sync.load_weights(WEIGHTS)  # in gunicorn's master, with --preload

@app.get("/")
def count():
    return [len(before), len(asyncload.sync.load_weights(WEIGHTS))]
"""


def test_gunicorn_that_loads_before_it_forks(folder: Path, tmp_path: Path) -> None:
    from tests.reported.test_lifetime import answer, free_port

    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers=2", "service:app"]
    environment = {**os.environ, "WEIGHTS": str(folder / "w.npz")}
    with subprocess.Popen(
        [*command, f"--bind=127.0.0.1:{port}", "--log-level=warning"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        for _ in range(4):
            assert answer(f"http://127.0.0.1:{port}/", server) == b"[2,2]\n"
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=PATIENCE)
    assert (said, server.returncode) == ("", 0)
